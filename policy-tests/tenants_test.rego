package gateway.tenants_test

import data.gateway.tenants

federation := {
	"providers": {
		"corp": {},
		"staff": {"tenant": null},
		"acme-sso": {"tenant": "acme"},
		"shared-sso": {"tenant": {"claim": "org"}},
		"nested-sso": {"tenant": {"claim": ["org", "id"]}},
		"directory": {"tenant": {"attribute": "o"}},
		"devices": {"tenant": {"issuers": {"CN=Acme CA": "acme"}, "trust_domains": {"globex.example": "globex"}}},
		"partners": {"tenant": {"keys": {"k1": "acme", "k9": "initech"}, "subjects": {"globex-buying": "globex"}}},
	},
	"tenants": {"acme": {}, "globex": {}, "broken": null},
}

known(provider, fields) := object.union({"authenticated": true, "provider": provider, "subject": "alice"}, fields)

nobody := {"authenticated": false}

home(identity) := name if {
	name := tenants.home with input as {"identity": identity} with data.federation as federation
}

at_home(identity, params) if {
	tenants.at_home with input as {"identity": identity, "api": {"params": params}} with data.federation as federation
}

tenant(identity, params) := name if {
	name := tenants.tenant with input as {"identity": identity, "api": {"params": params}}
		with data.federation as federation
}

test_a_provider_may_be_of_one_tenant if {
	home(known("acme-sso", {})) == "acme"
}

test_a_claim_may_tell_the_tenant if {
	home(known("shared-sso", {"claims": {"org": "acme"}})) == "acme"
	home(known("shared-sso", {"claims": {"org": ["globex"]}})) == "globex"
	home(known("nested-sso", {"claims": {"org": {"id": "globex"}}})) == "globex"
}

test_an_attribute_may_tell_the_tenant if {
	home(known("directory", {"attributes": {"o": "acme"}})) == "acme"
	home(known("directory", {"attributes": {"o": ["globex"]}})) == "globex"
}

test_what_was_proven_may_be_mapped_to_the_tenant if {
	home(known("devices", {"issuer": "CN=Acme CA"})) == "acme"
	home(known("devices", {"attributes": {"spiffe_id": "spiffe://globex.example/7"}})) == "globex"
	home(known("partners", {"attributes": {"key_id": "k1"}})) == "acme"
	home(known("partners", {"subject": "globex-buying"})) == "globex"
}

test_who_is_said_to_belong_to_two_belongs_to_none if {
	not home(known("shared-sso", {"claims": {"org": ["acme", "globex"]}}))
	not home(known("partners", {"subject": "globex-buying", "attributes": {"key_id": "k1"}}))
	not home(known("devices", {"issuer": "CN=Acme CA", "attributes": {"spiffe_id": "spiffe://globex.example/7"}}))
}

test_who_is_said_twice_to_belong_to_one_belongs_to_it if {
	home(known("shared-sso", {"claims": {"org": ["acme", "acme"]}})) == "acme"
}

test_a_tenant_that_is_not_listed_is_none if {
	every name in ["initech", "broken", "", "*", 7, null, {}, [], ["initech"], [["acme"]]] {
		not home(known("shared-sso", {"claims": {"org": name}}))
	}
	not home(known("partners", {"attributes": {"key_id": "k9"}}))
}

test_nobody_and_who_proved_nothing_belong_to_no_tenant if {
	not home(nobody)
	not home({"provider": "acme-sso"})
	not home({"provider": "acme-sso", "authenticated": "true"})
	not home(known("elsewhere", {}))
	not home(known("corp", {"claims": {"org": "acme"}}))
}

test_a_caller_is_at_home_in_its_own_tenant_only if {
	at_home(known("acme-sso", {}), {"tenant": "acme"})
	not at_home(known("acme-sso", {}), {"tenant": "globex"})
	not at_home(known("acme-sso", {}), {"tenant": "Acme"})
	not at_home(known("corp", {}), {"tenant": "acme"})
	not at_home(nobody, {"tenant": "acme"})
}

test_a_route_of_no_tenant_is_for_whoever_has_a_place if {
	every identity in [known("acme-sso", {}), known("corp", {}), known("staff", {}), nobody] {
		at_home(identity, {})
		at_home(identity, {"id": "acme"})
	}
}

test_who_should_have_a_tenant_and_has_none_is_nowhere_at_home if {
	every params in [{}, {"id": "42"}, {"tenant": "acme"}] {
		not at_home(known("shared-sso", {}), params)
		not at_home(known("shared-sso", {"claims": {"org": "initech"}}), params)
		not at_home(known("elsewhere", {}), params)
	}
}

test_the_tenant_of_a_request_is_that_of_the_route if {
	tenant(known("corp", {}), {"tenant": "acme"}) == "acme"
	tenant(known("acme-sso", {}), {"tenant": "globex"}) == "globex"
	not tenant(known("acme-sso", {}), {"tenant": "initech"})
}

test_the_tenant_of_a_request_to_no_tenant_is_the_callers_own if {
	tenant(known("acme-sso", {}), {"id": "42"}) == "acme"
	not tenant(known("corp", {}), {"id": "42"})
}

test_the_parameter_has_the_name_that_the_data_says if {
	renamed := object.union(federation, {"tenant_parameter": "customer"})
	asked := {"identity": known("acme-sso", {}), "api": {"params": {"customer": "acme", "tenant": "globex"}}}
	tenants.at_home with input as asked with data.federation as renamed
	not tenants.at_home with input as json.patch(asked, [{"op": "replace", "path": "/api/params/customer", "value": "globex"}])
		with data.federation as renamed
}

test_a_name_of_the_wrong_type_shuts_every_route if {
	every name in [null, true, 7, ["tenant"], {}] {
		every params in [{}, {"tenant": "acme"}] {
			not tenants.at_home with input as {"identity": known("acme-sso", {}), "api": {"params": params}}
				with data.federation as object.union(federation, {"tenant_parameter": name})
		}
	}
}

test_without_parameters_no_route_is_of_no_tenant if {
	every api in [{}, {"params": null}, {"params": []}, {"params": ["id"]}, {"params": "acme"}, null] {
		not tenants.at_home with input as {"identity": known("acme-sso", {}), "api": api} with data.federation as federation
		not tenants.is_known with input as {"identity": known("acme-sso", {}), "api": api} with data.federation as federation
	}
}

test_a_tenant_that_exists_is_known if {
	tenants.is_known with input as {"api": {"params": {"tenant": "acme"}}} with data.federation as federation
	not tenants.is_known with input as {"api": {"params": {"tenant": "initech"}}} with data.federation as federation
	not tenants.is_known with input as {"api": {"params": {"tenant": "broken"}}} with data.federation as federation
	tenants.is_known with input as {"api": {"params": {}}} with data.federation as federation
}

test_a_membership_of_the_wrong_shape_is_none if {
	every shape in [true, 7, [], ["acme"], {}, {"claim": 7}, {"claim": []}, {"issuers": ["acme"]}, {"keys": {"k1": ["acme"]}}] {
		wrong := {"providers": {"p": {"tenant": shape}}, "tenants": {"acme": {}}}
		caller := known("p", {"issuer": "CN=CA", "claims": {"org": "acme"}, "attributes": {"key_id": "k1"}})
		not tenants.home with input as {"identity": caller} with data.federation as wrong
		not tenants.at_home with input as {"identity": caller, "api": {"params": {}}} with data.federation as wrong
	}
}

test_without_data_nobody_is_at_home if {
	not tenants.at_home with input as {"identity": known("acme-sso", {}), "api": {"params": {}}} with data.federation as {}
	not tenants.home with input as {"identity": known("acme-sso", {})} with data.federation as {}
}
