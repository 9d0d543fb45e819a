package gateway.allowlist_test

import data.gateway.allowlist

lists := {
	"paths": ["/v2/orders", "/v2/status"],
	"networks": {
		"anonymous": ["192.0.2.0/24"],
		"corp": ["198.51.100.0/24", "2001:db8::/32"],
	},
	"clients": {
		"corp": {"*": true, "mallory": false},
		"partners": {"acme": true, "globex": false},
	},
}

nobody := {"authenticated": false}

known(provider, subject) := {"authenticated": true, "provider": provider, "subject": subject}

published(path) if {
	allowlist.path_allowed with input as {"request": {"path": path}} with data.allowlist as lists
}

from_network(ip, identity) if {
	allowlist.network_allowed with input as {"source": {"ip": ip}, "identity": identity} with data.allowlist as lists
}

welcome(identity) if {
	allowlist.client_allowed with input as {"identity": identity} with data.allowlist as lists
}

test_listed_paths_are_published if {
	published("/v2/orders/42")
	published("/v2/status")
}

test_other_paths_are_not_published if {
	not published("/v2/metrics")
	not published("/")
	not published(null)
}

test_a_provider_has_its_networks if {
	from_network("198.51.100.7", known("corp", "alice"))
	from_network("2001:db8::7", known("corp", "alice"))
	from_network("192.0.2.7", nobody)
}

test_another_network_is_refused if {
	not from_network("192.0.2.7", known("corp", "alice"))
	not from_network("2001:db9::7", known("corp", "alice"))
	not from_network("198.51.100.7", nobody)
	not from_network("198.51.100.7", known("partners", "acme"))
}

test_an_address_that_is_none_is_refused if {
	not from_network("", nobody)
	not from_network("192.0.2", nobody)
	not from_network(null, nobody)
	not from_network(["192.0.2.7"], nobody)
	not allowlist.network_allowed with input as {"identity": nobody} with data.allowlist as lists
}

test_an_unproven_identity_has_no_network if {
	not from_network("198.51.100.7", {"provider": "corp"})
	not from_network("198.51.100.7", {"provider": "corp", "authenticated": "true"})
}

test_a_malformed_network_hides_no_other if {
	allowlist.network_allowed with input as {"source": {"ip": "192.0.2.7"}, "identity": nobody}
		with data.allowlist as {"networks": {"anonymous": ["192.0.2.0", 7, "192.0.2.0/24"]}}
	not allowlist.network_allowed with input as {"source": {"ip": "192.0.2.7"}, "identity": nobody}
		with data.allowlist as {"networks": {"anonymous": ["192.0.2.0/99", "all", 7]}}
}

test_listed_clients_are_welcome if {
	welcome(known("partners", "acme"))
	welcome(known("corp", "alice"))
}

test_nobody_is_judged_by_role_and_network if {
	welcome(nobody)
}

test_clients_that_are_not_listed_are_refused if {
	not welcome(known("partners", "initech"))
	not welcome(known("elsewhere", "acme"))
}

test_a_suspended_client_is_refused if {
	not welcome(known("partners", "globex"))
	not welcome(known("corp", "mallory"))
}

test_a_client_without_a_name_is_refused if {
	not welcome({"authenticated": true, "provider": "corp"})
	not welcome(known("corp", ""))
	not welcome(known("corp", null))
	not welcome(known("corp", 7))
	not welcome(known("corp", ["*"]))
	not welcome(known(null, "alice"))
	not welcome({})
}

test_a_client_is_listed_by_a_boolean if {
	every entry in [null, 1, "true", "false", [], {}] {
		not allowlist.client_allowed with input as {"identity": known("corp", "alice")}
			with data.allowlist as {"clients": {"corp": {"alice": entry}}}
	}
}

test_without_data_nothing_is_allowed if {
	asked := {"request": {"path": "/v2/orders"}, "source": {"ip": "192.0.2.7"}, "identity": known("corp", "alice")}
	not allowlist.path_allowed with input as asked with data.allowlist as {}
	not allowlist.network_allowed with input as asked with data.allowlist as {}
	not allowlist.client_allowed with input as asked with data.allowlist as {}
}
