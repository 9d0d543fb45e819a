package gateway.federation_test

import data.gateway.federation

mapping := {
	"anonymous": ["guest"],
	"providers": {
		"corp": {
			"roles": {"orders.read": ["reader"], "orders.write": ["reader", "writer"]},
			"groups": {"platform": ["admin"]},
		},
		"devices": {"subjects": {"spiffe://example.org/7": ["scanner"]}},
	},
}

caller(fields) := object.union({"provider": "corp", "authenticated": true, "subject": "alice", "roles": [], "groups": []}, fields)

roles_of(identity) := roles if {
	roles := federation.roles with input as {"identity": identity} with data.federation as mapping
}

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
