package gateway.revocation_test

import data.gateway.revocation

lists := {"corp": {
	"tokens": {"t-lost": true, "t-found": false, "t-dated": 1700000000},
	"sessions": {"s-ended": true},
	"subjects": {"eve": 1700000000, "mallory": "always"},
}}

caller(subject, claims) := {"authenticated": true, "provider": "corp", "subject": subject, "claims": claims}

holds(identity) if {
	revocation.valid with input as {"identity": identity} with data.revocation as lists
}

test_what_is_not_listed_holds if {
	holds({"authenticated": false})
	holds(caller("alice", {}))
	holds(caller("alice", {"jti": "t-1", "sid": "s-1", "iat": 1}))
	holds(caller("alice", {"jti": "t-found"}))
}

test_a_listed_token_is_revoked if {
	not holds(caller("alice", {"jti": "t-lost"}))
	not holds(caller("alice", {"jti": "t-dated"}))
}

test_a_listed_session_is_revoked if {
	not holds(caller("alice", {"jti": "t-1", "sid": "s-ended"}))
}

test_a_subject_loses_what_was_issued_before if {
	not holds(caller("eve", {"iat": 1699999999}))
	holds(caller("eve", {"iat": 1700000000}))
	holds(caller("eve", {"iat": 1700000000.5}))
}

test_a_subject_loses_what_has_no_time if {
	not holds(caller("eve", {}))
	not holds(caller("eve", {"iat": "1700000001"}))
	not holds({"authenticated": true, "provider": "corp", "subject": "eve"})
	not holds(caller("mallory", {"iat": 1700000000}))
}

test_a_name_is_one_providers if {
	other := object.union(caller("eve", {"jti": "t-lost", "sid": "s-ended"}), {"provider": "partners"})
	holds(other)
}

test_what_cannot_be_looked_up_does_not_hold if {
	every oddity in [null, 0, [], {}, true] {
		not holds(caller("alice", {"jti": oddity}))
		not holds(caller("alice", {"sid": oddity}))
		not holds(caller(oddity, {}))
	}
	every name in ["tokens", "sessions", "subjects"] {
		every oddity in [null, 0, [], "", true] {
			damaged := {"corp": object.union(lists.corp, {name: oddity})}
			not revocation.valid with input as {"identity": caller("alice", {"iat": 1})} with data.revocation as damaged
		}
	}
	every oddity in [null, 0, [], "", true] {
		not revocation.valid with input as {"identity": caller("alice", {})} with data.revocation as oddity
		not revocation.valid with input as {"identity": caller("alice", {})} with data.revocation as {"corp": oddity}
	}
}

test_without_an_identity_nothing_holds if {
	not revocation.valid with input as {} with data.revocation as lists
}
