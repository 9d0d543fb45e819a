package gateway.federation_test

import data.gateway.federation

mapping := {
	"anonymous": ["guest"],
	"providers": {
		"corp": {
			"roles": {"orders.read": ["reader"], "orders.write": ["reader", "writer"]},
			"groups": {"platform": ["admin"]},
		},
		"devices": {
			"subjects": {"spiffe://example.org/7": ["scanner"]},
			"issuers": {"CN=Device CA": ["device"]},
			"trust_domains": {"example.org": ["workload"]},
		},
		"partners": {"keys": {"k1": ["partner"]}, "scopes": {"orders:read": ["reader"]}},
		"staff": {
			"claims": {"department": {"finance": ["auditor"], "it": ["admin"]}, "https://example.org/level": {"gold": ["gold"]}},
			"nested_claims": [
				{"claim": ["realm_access", "roles"], "roles": {"buyer": ["writer"]}},
				{"claim": "department", "roles": {"finance": ["reader"]}},
			],
		},
		"directory": {
			"attributes": {"departmentNumber": {"7": ["desk"]}, "mail": {"alice@example.org": ["alice"]}},
			"tenant": {"attribute": "o"},
		},
	},
	"tenants": {
		"acme": {"providers": {"directory": {"groups": {"buyers": ["writer"]}}}},
		"globex": {"providers": {"directory": {"groups": {"buyers": ["admin"]}}}},
	},
}

caller(fields) := object.union({"provider": "corp", "authenticated": true, "subject": "alice", "roles": [], "groups": []}, fields)

roles_of(identity) := roles if {
	roles := federation.roles with input as {"identity": identity, "api": {"params": {}}} with data.federation as mapping
}

staff(claims) := caller({"provider": "staff", "claims": claims})

buyer(tenant) := caller({"provider": "directory", "groups": ["buyers"], "attributes": {"o": tenant, "departmentNumber": "7"}})

test_token_roles_are_mapped if {
	roles_of(caller({"roles": ["orders.write"]})) == {"reader", "writer"}
}

test_groups_are_mapped if {
	roles_of(caller({"groups": ["platform"]})) == {"admin"}
}

test_subjects_are_mapped if {
	roles_of(caller({"provider": "devices", "subject": "spiffe://example.org/7"})) == {"scanner"}
}

test_roles_and_groups_add_up if {
	roles_of(caller({"roles": ["orders.read"], "groups": ["platform"]})) == {"reader", "admin"}
}

test_names_that_are_not_mapped_give_nothing_and_spoil_nothing if {
	roles_of(caller({"roles": ["admin", "orders.read"], "groups": ["reader"]})) == {"reader"}
}

test_a_role_means_nothing_from_another_provider if {
	roles_of(caller({"provider": "devices", "roles": ["orders.read"]})) == set()
}

test_an_unknown_provider_gives_nothing if {
	roles_of(caller({"provider": "elsewhere", "roles": ["orders.read"]})) == set()
}

test_nobody_is_a_guest if {
	roles_of({"authenticated": false}) == {"guest"}
}

test_a_refused_credential_is_nobody if {
	roles_of({"authenticated": false, "failure": {"provider": "corp", "reason": "expired"}}) == {"guest"}
}

test_roles_without_proof_give_nothing if {
	roles_of({"provider": "corp", "subject": "alice", "roles": ["orders.read"]}) == set()
}

test_proof_is_a_boolean if {
	every proof in [null, 0, 1, "true", "false", [], {}] {
		roles_of(caller({"authenticated": proof, "roles": ["orders.read"]})) == set()
	}
}

test_without_data_there_are_no_roles if {
	federation.roles == set() with input as {"identity": caller({"roles": ["orders.read"]})} with data.federation as {}
}

test_a_mapping_of_the_wrong_shape_gives_nothing if {
	federation.roles == set() with input as {"identity": caller({"roles": ["orders.read"]})}
		with data.federation as {"providers": {"corp": {"roles": ["orders.read"]}}}
}

test_scopes_are_mapped if {
	roles_of(caller({"provider": "partners", "scopes": ["orders:read", "openid"]})) == {"reader"}
}

test_a_key_is_mapped_by_its_id if {
	roles_of(caller({"provider": "partners", "attributes": {"key_id": "k1"}})) == {"partner"}
	roles_of(caller({"provider": "partners", "attributes": {"key_id": "k2"}})) == set()
	roles_of(caller({"provider": "corp", "attributes": {"key_id": "k1"}})) == set()
}

test_a_certificate_is_mapped_by_its_issuer if {
	roles_of(caller({"provider": "devices", "issuer": "CN=Device CA"})) == {"device"}
	roles_of(caller({"provider": "devices", "issuer": "CN=Device CA,O=Other"})) == set()
}

test_a_certificate_is_mapped_by_its_trust_domain if {
	roles_of(caller({"provider": "devices", "attributes": {"spiffe_id": "spiffe://example.org/8"}})) == {"workload"}
	roles_of(caller({"provider": "devices", "attributes": {"spiffe_id": "spiffe://example.org"}})) == {"workload"}
	every id in [
		"spiffe://example.org.evil/8",
		"spiffe://evil/example.org/8",
		"spiffe://example.org@evil/8",
		"spiffe:example.org/8",
		"https://example.org/8",
		"example.org",
		"spiffe://",
		"",
		7,
		null,
		["spiffe://example.org/8"],
	] {
		roles_of(caller({"provider": "devices", "attributes": {"spiffe_id": id}})) == set()
	}
}

test_a_claim_is_mapped_by_its_name_and_value if {
	roles_of(staff({"https://example.org/level": "gold"})) == {"gold"}
	roles_of(staff({"department": "it"})) == {"admin"}
	roles_of(staff({"department": ["it", "sales"]})) == {"admin"}
}

test_a_nested_claim_is_mapped_by_its_path if {
	roles_of(staff({"realm_access": {"roles": ["buyer", "other"]}})) == {"writer"}
	roles_of(staff({"realm_access": {"roles": "buyer"}})) == {"writer"}
	roles_of(staff({"department": "finance"})) == {"auditor", "reader"}
	roles_of(staff({"realm_access.roles": ["buyer"]})) == set()
}

test_a_claim_of_another_form_gives_nothing if {
	every value in [null, true, 0, 7, {"it": true}, [["it"]], [0, null, {}], ""] {
		roles_of(staff({"department": value, "realm_access": {"roles": value}})) == set()
		roles_of(staff({"realm_access": value})) == set()
		roles_of(staff(value)) == set()
	}
}

test_attributes_are_mapped_by_name_and_value if {
	roles_of(caller({"provider": "directory", "attributes": {"o": "acme", "mail": ["a@example.org", "alice@example.org"]}})) == {"alice"}
}

test_a_tenants_own_roles_are_added if {
	roles_of(buyer("acme")) == {"desk", "writer"}
	roles_of(buyer("globex")) == {"desk", "admin"}
	roles_of(buyer("initech")) == {"desk"}
}

test_a_tenants_own_roles_hold_in_that_tenant_only if {
	asked := {"identity": buyer("acme"), "api": {"params": {"tenant": "globex"}}}
	federation.roles == {"desk"} with input as asked with data.federation as mapping
	federation.everywhere == {"desk"} with input as {"identity": buyer("acme"), "api": {"params": {"tenant": "acme"}}}
		with data.federation as mapping
}

test_the_roles_are_those_of_the_first_of_several_identities if {
	alice := caller({"roles": ["orders.read"]})
	device := caller({"provider": "devices", "subject": "spiffe://example.org/7"})
	both := {"identity": object.union(alice, {"all": {"corp": alice, "devices": device}}), "api": {"params": {}}}
	federation.roles == {"reader"} with input as both with data.federation as mapping
	federation.roles_of(both.identity.all.devices) == {"scanner"} with input as both with data.federation as mapping
}

test_an_identity_that_proves_nothing_has_no_roles if {
	every identity in [null, "corp", [], {}, {"provider": "corp", "roles": ["orders.read"]}] {
		not federation.roles_of(identity) with input as {} with data.federation as mapping
	}
}

test_each_kind_of_mapping_may_have_the_wrong_shape if {
	rich := caller({
		"subject": "alice",
		"issuer": "CN=CA",
		"roles": ["r"],
		"groups": ["g"],
		"scopes": ["s"],
		"claims": {"c": "v"},
		"attributes": {"a": "v", "key_id": "k1", "spiffe_id": "spiffe://example.org/7"},
	})
	kinds := [
		"roles", "groups", "scopes", "subjects", "issuers", "keys", "trust_domains",
		"claims", "nested_claims", "attributes",
	]
	shapes := [
		null, true, 7, "admin", ["admin"], [["admin"]],
		{"r": "admin", "g": "admin", "s": "admin", "c": "admin", "a": "admin", "k1": "admin", "alice": "admin"},
		{"r": [7, null, ["admin"]], "alice": [{}], "c": {"v": "admin"}, "a": {"v": [7]}},
		[{"claim": "c", "roles": "admin"}, {"claim": 7, "roles": {"v": ["admin"]}}, {"claim": [], "roles": {"v": ["admin"]}}],
	]
	every kind in kinds {
		every shape in shapes {
			federation.roles == set() with input as {"identity": rich, "api": {"params": {}}}
				with data.federation as {"providers": {"corp": {kind: shape}}}
		}
	}
}

test_anonymous_roles_of_the_wrong_shape_give_nothing if {
	every shape in [null, true, 7, "guest", [7, null, ["guest"]], {}] {
		federation.roles == set() with input as {"identity": {"authenticated": false}}
			with data.federation as {"anonymous": shape}
	}
}
