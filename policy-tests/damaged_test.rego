package gateway.damaged_test

# Requests that are allowed on the data as it is, each by another road. What a decision rests on is listed in `needed`:
# without one of these fields, or with something else in its place, nothing is ever allowed.

import data.gateway

reader := {
	"input": {
		"source": {"ip": "192.0.2.10"},
		"request": {"method": "GET", "path": "/v2/orders/42", "scheme": "https"},
		"api": {"name": "orders", "version": "v2", "route": "read-order", "params": {"id": "42"}},
		"identity": {
			"authenticated": true,
			"provider": "corp",
			"type": "jwt",
			"subject": "alice@example.com",
			"roles": ["orders.read"],
			"groups": [],
			"scopes": [],
			"audience": ["orders"],
		},
	},
	"needed": [
		["source"], ["source", "ip"],
		["request"], ["request", "method"], ["request", "path"],
		["api"], ["api", "name"], ["api", "route"],
		["identity"], ["identity", "authenticated"], ["identity", "provider"], ["identity", "subject"],
		["identity", "roles"],
	],
}

administrator := {
	"input": {
		"source": {"ip": "2001:db8::10"},
		"request": {"method": "DELETE", "path": "/v2/orders/42", "scheme": "https"},
		"api": {"name": "orders", "version": "v2", "route": "cancel-order", "params": {"id": "42"}},
		"identity": {
			"authenticated": true,
			"provider": "corp",
			"type": "jwt",
			"subject": "root@example.com",
			"roles": [],
			"groups": ["platform"],
			"scopes": [],
			"audience": ["orders"],
		},
	},
	"needed": [
		["source"], ["source", "ip"],
		["request"], ["request", "method"], ["request", "path"],
		["identity"], ["identity", "authenticated"], ["identity", "provider"], ["identity", "subject"],
		["identity", "groups"],
	],
}

device := {
	"input": {
		"source": {"ip": "10.20.30.40"},
		"request": {"method": "POST", "path": "/v2/orders/42/scans", "scheme": "https"},
		"api": {"name": "orders", "version": "v2", "route": "record-scan", "params": {"id": "42"}},
		"identity": {
			"authenticated": true,
			"provider": "devices",
			"type": "client_certificate",
			"subject": "spiffe://example.org/device/scanner-7",
			"roles": [],
			"groups": [],
			"scopes": [],
			"audience": [],
		},
	},
	"needed": [
		["source"], ["source", "ip"],
		["request"], ["request", "method"], ["request", "path"],
		["api"], ["api", "name"], ["api", "route"],
		["identity"], ["identity", "authenticated"], ["identity", "provider"], ["identity", "subject"],
	],
}

nobody := {
	"input": {
		"source": {"ip": "203.0.113.10"},
		"request": {"method": "GET", "path": "/v2/status", "scheme": "https"},
		"api": {"name": "orders", "version": "v2", "route": "status", "params": {}},
		"identity": {"authenticated": false},
	},
	"needed": [
		["source"], ["source", "ip"],
		["request"], ["request", "method"], ["request", "path"],
		["api"], ["api", "name"], ["api", "route"],
		["identity"], ["identity", "authenticated"],
	],
}

requests := {"reader": reader, "administrator": administrator, "device": device, "nobody": nobody}

# What may stand where a name, a list, a boolean or an object belongs.
oddities := [null, 0, 1, -1.5, "", [], ["*"], [[]], [null], {}, {"*": "*"}]

replaced(document, path, value) := json.patch(document, [{"op": "replace", "path": path, "value": value}])

test_the_requests_are_allowed_as_they_are if {
	every request in requests {
		gateway.decision.allow == true with input as request.input
	}
}

test_without_a_field_nothing_is_allowed if {
	every request in requests {
		every path in request.needed {
			gateway.decision.allow == false with input as json.remove(request.input, [path])
		}
	}
}

test_with_something_else_in_its_place_nothing_is_allowed if {
	every request in requests {
		every path in request.needed {
			every oddity in oddities {
				gateway.decision.allow == false with input as replaced(request.input, path, oddity)
			}
		}
	}
}

test_without_data_nothing_is_allowed if {
	every request in requests {
		gateway.decision.allow == false with input as request.input with data.rbac as {}
		gateway.decision.allow == false with input as request.input with data.federation as {}
		gateway.decision.allow == false with input as request.input with data.allowlist as {}
		gateway.decision.allow == false with input as request.input with data.tiers as {}
	}
	every request in [reader, administrator, device] {
		gateway.decision.allow == false with input as request.input with data.revocation as null
	}
}

test_the_response_phase_always_answers_and_never_refuses if {
	every request in requests {
		every path in request.needed {
			gateway.response.allow == true with input as json.remove(request.input, [path])
		}
	}
}
