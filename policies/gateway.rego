# METADATA
# scope: package
# title: The entry point
# description: |
#   Composes the other packages into the one decision that the gateway asks for, and denies by default: a request is
#   let through only where every condition holds, and a condition that reads a missing field does not hold.
#   Point an API at it with `bundle: policies`, `decision: gateway/decision`, `response: gateway/response`.
package gateway

import data.gateway.allowlist
import data.gateway.federation
import data.gateway.rbac
import data.gateway.revocation
import data.gateway.tenants
import data.gateway.tiers

# METADATA
# scope: document
# title: The decision for one request
# description: |
#   Allowed with limits and identity headers, or denied with the first reason that applies.
# entrypoint: true
default decision := {"allow": false, "reason": "default_deny"}

decision := {
	"allow": true,
	"reason": "permitted",
	"limits": limits,
	"upstream": {"headers": headers},
	"labels": object.union({"tier": tier}, tenant_label),
} if {
	allowlist.path_allowed
	allowlist.network_allowed
	allowlist.client_allowed
	revocation.valid
	rbac.tenant_permitted
	rbac.permitted
	tier := tiers.tier
	limits := tiers.limits
	headers := upstream_headers
} else := {"allow": false, "reason": "path_not_allowed"} if {
	not allowlist.path_allowed
} else := {"allow": false, "reason": "network_not_allowed"} if {
	not allowlist.network_allowed
} else := unauthenticated if {
	anonymous
	not welcome
} else := {"allow": false, "reason": "client_not_allowed"} if {
	not allowlist.client_allowed
} else := {"allow": false, "reason": "revoked", "expose_reason": true, "status": 401} if {
	not revocation.valid
} else := {"allow": false, "reason": "tenant_not_permitted", "expose_reason": true} if {
	not rbac.tenant_permitted
} else := {"allow": false, "reason": "role_not_permitted", "expose_reason": true} if {
	not rbac.permitted
}

# METADATA
# scope: document
# title: The response phase
# description: |
#   Asked again when the upstream has answered: takes away headers that tell what runs behind the gateway and adds
#   those that tell browsers and caches to be careful.
# entrypoint: true
response := {"allow": true, "response": {"headers": {"set": added, "remove": data.response_headers.remove}}} if {
	added := object.union_n([data.response_headers.set, caching, transport])
}

# METADATA
# title: What a caller without a credential is told
# description: RFC 9110 section 11.6.1 asks for a challenge beside a 401.
unauthenticated := {
	"allow": false,
	"reason": "unauthenticated",
	"expose_reason": true,
	"status": 401,
	"headers": {"www-authenticate": challenge},
} if {
	challenge := data.federation.challenge
}

# METADATA
# scope: document
# title: Whether one of the caller's roles permits the request in its tenant
default welcome := false

welcome if {
	rbac.tenant_permitted
	rbac.permitted
}

# METADATA
# title: Who is asking and for which tenant, for the upstream
# description: |
#   The upstream may trust these headers: they replace whatever the client sent under these names.
upstream_headers := {
	"set": object.union(caller_headers.set, tenant_headers.set),
	"remove": array.concat(caller_headers.remove, tenant_headers.remove),
}

# METADATA
# scope: document
# title: Who is asking
caller_headers := {"set": {"x-user": subject, "x-user-provider": provider, "x-roles": roles}, "remove": []} if {
	input.identity.authenticated == true
	subject := input.identity.subject
	provider := input.identity.provider
	roles := concat(",", sort(federation.roles))
}

caller_headers := {"set": {}, "remove": ["x-user", "x-user-provider", "x-roles"]} if {
	anonymous
}

# METADATA
# scope: document
# title: For which tenant
default tenant_headers := {"set": {}, "remove": ["x-tenant"]}

tenant_headers := {"set": {"x-tenant": tenants.tenant}, "remove": []}

# METADATA
# scope: document
# title: The tenant, for the decision event
default tenant_label := {}

tenant_label := {"tenant": tenants.tenant}

# METADATA
# scope: document
# title: Whether the caller is known to be nobody
default anonymous := false

anonymous if {
	input.identity.authenticated == false
}

# METADATA
# scope: document
# title: Headers for caches
# description: What a known caller was given is for that caller only.
caching := {} if {
	anonymous
}

caching := data.response_headers.set_private if {
	not anonymous
}

# METADATA
# scope: document
# title: Headers for TLS
# description: RFC 6797 section 7.2 forbids Strict-Transport-Security on plaintext.
default transport := {}

transport := data.response_headers.set_https if {
	input.request.scheme == "https"
}
