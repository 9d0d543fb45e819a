# METADATA
# scope: package
# title: Role-based access control
# description: |
#   What each role may do is data, `data.rbac`: methods by API and route, or methods by path prefix for APIs that do not
#   name their routes. A role that is not there may do nothing. Look-ups go by key, so that the cost of a decision does
#   not grow with the number of roles or routes.
#   Whether the caller may act in the tenant that the request is for is a question of its own.
# custom:
#   data: [rbac, federation]
package gateway.rbac

import data.gateway.federation
import data.gateway.paths
import data.gateway.tenants

# METADATA
# scope: document
# title: Whether one of the caller's roles permits the request
default permitted := false

permitted if {
	method := input.request.method
	some role in federation.roles
	method in data.rbac[role].routes[input.api.name][input.api.route]
}

permitted if {
	method := input.request.method
	some role in federation.roles
	grants := data.rbac[role].paths
	is_object(grants)
	some prefix, methods in grants
	paths.within(prefix)
	method in methods
}

# METADATA
# scope: document
# title: Whether the caller may act in the tenant that the request is for
# description: |
#   It is the caller's own, or one of the caller's roles is for every tenant, `data.federation.cross_tenant`. A role that
#   holds in one tenant only does not count for that.
default tenant_permitted := false

tenant_permitted if {
	tenants.at_home
}

tenant_permitted if {
	tenants.is_known
	some role in data.federation.cross_tenant
	role in federation.everywhere
}
