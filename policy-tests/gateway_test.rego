package gateway_test

import data.gateway

alice := {"authenticated": true, "provider": "corp", "subject": "alice"}

nobody := {"authenticated": false}

limits := [{"name": "standard", "rate": "50/1s", "key": "corp/alice"}]

# The decision where all conditions hold but those in `failing`.
decision(identity, failing) := result if {
	result := gateway.decision with input as {"identity": identity}
		with data.federation as {"challenge": "Bearer realm=\"test\""}
		with data.gateway.federation.roles as {"writer", "reader"}
		with data.gateway.allowlist.path_allowed as object.get(failing, "path", true)
		with data.gateway.allowlist.network_allowed as object.get(failing, "network", true)
		with data.gateway.allowlist.client_allowed as object.get(failing, "client", true)
		with data.gateway.revocation.valid as object.get(failing, "revocation", true)
		with data.gateway.rbac.tenant_permitted as object.get(failing, "tenant", true)
		with data.gateway.rbac.permitted as object.get(failing, "role", true)
		with data.gateway.tiers.tier as "standard"
		with data.gateway.tiers.limits as limits
}

denied(reason) := {"allow": false, "reason": reason}

test_all_conditions_together_allow if {
	decision(alice, {}) == {
		"allow": true,
		"reason": "permitted",
		"limits": limits,
		"upstream": {"headers": {
			"set": {"x-user": "alice", "x-user-provider": "corp", "x-roles": "reader,writer"},
			"remove": ["x-tenant"],
		}},
		"labels": {"tier": "standard"},
	}
}

test_an_anonymous_request_takes_no_identity_upstream if {
	decision(nobody, {}).upstream == {"headers": {
		"set": {},
		"remove": ["x-user", "x-user-provider", "x-roles", "x-tenant"],
	}}
}

test_the_tenant_is_told_to_the_upstream_and_the_log if {
	result := decision(alice, {}) with data.gateway.tenants.tenant as "acme"
	result.upstream.headers.set["x-tenant"] == "acme"
	result.upstream.headers.remove == []
	result.labels == {"tier": "standard", "tenant": "acme"}
}

test_each_condition_is_needed_and_named if {
	decision(alice, {"path": false}) == denied("path_not_allowed")
	decision(alice, {"network": false}) == denied("network_not_allowed")
	decision(alice, {"client": false}) == denied("client_not_allowed")
	decision(alice, {"revocation": false}) == {
		"allow": false,
		"reason": "revoked",
		"expose_reason": true,
		"status": 401,
	}
	decision(alice, {"tenant": false}) == {"allow": false, "reason": "tenant_not_permitted", "expose_reason": true}
	decision(alice, {"role": false}) == {"allow": false, "reason": "role_not_permitted", "expose_reason": true}
}

test_the_first_condition_that_fails_is_named if {
	decision(alice, {"path": false, "network": false, "client": false, "role": false}).reason == "path_not_allowed"
	decision(alice, {"network": false, "client": false, "role": false}).reason == "network_not_allowed"
	decision(alice, {"client": false, "revocation": false, "role": false}).reason == "client_not_allowed"
	decision(alice, {"revocation": false, "role": false}).reason == "revoked"
	decision(alice, {"client": false, "tenant": false, "role": false}).reason == "client_not_allowed"
	decision(alice, {"tenant": false, "role": false}).reason == "tenant_not_permitted"
	decision(nobody, {"network": false, "role": false}).reason == "network_not_allowed"
}

test_a_caller_without_a_credential_is_asked_for_one if {
	decision(nobody, {"role": false}) == {
		"allow": false,
		"reason": "unauthenticated",
		"expose_reason": true,
		"status": 401,
		"headers": {"www-authenticate": "Bearer realm=\"test\""},
	}
}

test_another_tenant_asks_a_caller_without_a_credential_for_one if {
	decision(nobody, {"tenant": false}).status == 401
	decision(nobody, {"tenant": false}).reason == "unauthenticated"
}

test_without_a_challenge_it_is_denied_all_the_same if {
	result := gateway.decision with input as {"identity": nobody}
		with data.federation as {}
		with data.gateway.allowlist.path_allowed as true
		with data.gateway.allowlist.network_allowed as true
		with data.gateway.rbac.tenant_permitted as true
		with data.gateway.rbac.permitted as false
	result.reason == "role_not_permitted"
}

test_without_limits_or_identity_headers_the_default_denies if {
	gateway.decision == denied("default_deny") with input as {"identity": alice}
		with data.gateway.federation.roles as {"reader"}
		with data.gateway.allowlist.path_allowed as true
		with data.gateway.allowlist.network_allowed as true
		with data.gateway.allowlist.client_allowed as true
		with data.gateway.rbac.tenant_permitted as true
		with data.gateway.rbac.permitted as true
		with data.tiers as {}
	decision({"authenticated": true, "provider": "corp"}, {}) == denied("default_deny")
	decision({"authenticated": true, "subject": "alice"}, {}) == denied("default_deny")
	decision({}, {}) == denied("default_deny")
}

test_an_empty_input_is_denied if {
	gateway.decision.allow == false with input as {}
	gateway.decision.allow == false with input as null
	gateway.decision.allow == false with input as []
}

response_headers := {
	"set": {"x-content-type-options": "nosniff"},
	"set_private": {"cache-control": "no-store"},
	"set_https": {"strict-transport-security": "max-age=1"},
	"remove": ["server"],
}

edits(asked) := headers if {
	result := gateway.response with input as asked with data.response_headers as response_headers
	result.allow == true
	headers := result.response.headers
}

test_response_headers_are_added_and_removed if {
	edits({"identity": nobody, "request": {"scheme": "http"}}) == {
		"set": {"x-content-type-options": "nosniff"},
		"remove": ["server"],
	}
}

test_what_a_known_caller_gets_is_not_stored if {
	edits({"identity": alice}).set["cache-control"] == "no-store"
	edits({}).set["cache-control"] == "no-store"
}

test_transport_security_is_for_tls if {
	edits({"request": {"scheme": "https"}}).set["strict-transport-security"] == "max-age=1"
	not edits({"request": {"scheme": "http"}}).set["strict-transport-security"]
	not edits({}).set["strict-transport-security"]
}

test_without_data_the_response_phase_has_no_answer if {
	not gateway.response with input as {"identity": alice} with data.response_headers as {}
	not gateway.response with input as {"identity": alice} with data.response_headers as {"set": {}, "remove": []}
}
