package gateway.damaged_test

# Requests that are allowed on the data as it is and one tenant more, each by another road. What a decision rests on is listed in `needed`:
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

# Somebody of a tenant, on a route of that tenant, by a role that holds there only.
tenant := {
	"input": {
		"source": {"ip": "192.0.2.10"},
		"request": {"method": "GET", "path": "/v2/orders", "scheme": "https"},
		"api": {"name": "orders", "version": "v2", "route": "list-orders", "params": {"tenant": "acme"}},
		"identity": {
			"authenticated": true,
			"provider": "partners",
			"type": "api_key",
			"subject": "acme",
			"roles": [],
			"groups": [],
			"scopes": [],
			"audience": [],
			"claims": {"org": {"id": "acme"}},
			"attributes": {"key_id": "k1"},
		},
	},
	"needed": [
		["source"], ["source", "ip"],
		["request"], ["request", "method"], ["request", "path"],
		["api"], ["api", "name"], ["api", "route"],
		["identity"], ["identity", "authenticated"], ["identity", "provider"], ["identity", "subject"],
		["identity", "claims"], ["identity", "claims", "org"], ["identity", "claims", "org", "id"],
		["identity", "attributes"], ["identity", "attributes", "key_id"],
	],
}

requests := {
	"reader": reader,
	"administrator": administrator,
	"device": device,
	"nobody": nobody,
	"tenant": tenant,
}

# The data, with a tenant for the partners.
mapped := object.union(data.federation, {
	"providers": {"partners": {"tenant": {"claim": ["org", "id"]}}},
	"tenants": {"acme": {"providers": {"partners": {"keys": {"k1": ["reader"]}}}}},
})

# What may stand where a name, a list, a boolean or an object belongs.
oddities := [null, 0, 1, -1.5, "", [], ["*"], [[]], [null], {}, {"*": "*"}]

replaced(document, path, value) := json.patch(document, [{"op": "replace", "path": path, "value": value}])

test_the_requests_are_allowed_as_they_are if {
	every request in requests {
		gateway.decision.allow == true with input as request.input with data.federation as mapped
	}
}

test_without_a_field_nothing_is_allowed if {
	every request in requests {
		every path in request.needed {
			gateway.decision.allow == false with input as json.remove(request.input, [path])
				with data.federation as mapped
		}
	}
}

test_with_something_else_in_its_place_nothing_is_allowed if {
	every request in requests {
		every path in request.needed {
			every oddity in oddities {
				gateway.decision.allow == false with input as replaced(request.input, path, oddity)
					with data.federation as mapped
			}
		}
	}
}

test_without_route_parameters_nothing_is_allowed if {
	every request in requests {
		gateway.decision.allow == false with input as json.remove(request.input, [["api", "params"]])
			with data.federation as mapped
		every oddity in [value | some value in oddities; not is_object(value)] {
			gateway.decision.allow == false with input as replaced(request.input, ["api", "params"], oddity)
				with data.federation as mapped
		}
	}
}

test_with_something_else_for_a_tenant_nothing_is_allowed if {
	every request in requests {
		every oddity in array.concat(oddities, ["globex", "Acme", "acme ", ["acme"]]) {
			gateway.decision.allow == false
				with input as json.patch(request.input, [{"op": "add", "path": ["api", "params", "tenant"], "value": oddity}])
				with data.federation as mapped
		}
	}
}

test_without_data_nothing_is_allowed if {
	every request in requests {
		gateway.decision.allow == false with input as request.input with data.rbac as {} with data.federation as mapped
		gateway.decision.allow == false with input as request.input with data.federation as {}
		gateway.decision.allow == false with input as request.input with data.allowlist as {} with data.federation as mapped
		gateway.decision.allow == false with input as request.input with data.tiers as {} with data.federation as mapped
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
