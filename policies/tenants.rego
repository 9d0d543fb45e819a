# METADATA
# scope: package
# title: Tenants
# description: |
#   Which tenant a caller belongs to, `home`, and which one a request is for: a route with a parameter named
#   `data.federation.tenant_parameter` is for the tenant in it. Only tenants in `data.federation.tenants` exist.
# custom:
#   data: [federation]
package gateway.tenants

import data.gateway.proven

# METADATA
# scope: document
# title: The tenant that the caller belongs to
home := of(input.identity)

# METADATA
# title: The tenant that an identity belongs to
# description: None where it is said to belong to several, or to one that is not listed.
of(identity) := name if {
	identity.authenticated == true
	candidates := said(data.federation.providers[identity.provider].tenant, identity)
	count(candidates) == 1
	some name in candidates
	is_listed(name)
}

# METADATA
# title: The tenants that an identity is said to belong to
# description: One for all of a provider, those of a claim or an attribute, or what something proven is mapped to.
said(membership, identity) := union({
	{name | name := membership; is_string(name)},
	{name | some name in proven.names(proven.claim(identity, membership.claim))},
	{name | some name in proven.names(identity.attributes[membership.attribute])},
	{name | name := membership.issuers[identity.issuer]},
	{name | name := membership.trust_domains[proven.trust_domain(identity)]},
	{name | name := membership.keys[identity.attributes.key_id]},
	{name | name := membership.subjects[identity.subject]},
})

# METADATA
# scope: document
# title: The tenant that the route is for
asked := name if {
	is_string(parameter)
	name := input.api.params[parameter]
	is_string(name)
}

# METADATA
# scope: document
# title: The tenant that the request is for
# description: The route's, else the caller's own.
tenant := asked if {
	is_listed(asked)
}

tenant := home if {
	is_shared
}

# METADATA
# scope: document
# title: Whether the caller stays in its own tenant
default at_home := false

at_home if {
	stays(input.identity)
}

# METADATA
# title: Whether the request is for an identity's own tenant, or for none
stays(identity) if {
	of(identity) == asked
}

stays(identity) if {
	is_shared
	is_placed(identity)
}

# METADATA
# scope: document
# title: Whether the route is for no tenant, or for one that is listed
default is_known := false

is_known if {
	is_shared
}

is_known if {
	is_listed(asked)
}

# METADATA
# scope: document
# title: Whether the route is for no tenant in particular
default is_shared := false

is_shared if {
	is_string(parameter)
	is_object(input.api.params)
	every name, _ in input.api.params {
		name != parameter
	}
}

# METADATA
# title: Whether all is known about an identity's tenant
# description: |
#   It belongs to one, or its provider has none. A caller whose tenant cannot be told is out even where a route is for no
#   tenant in particular, since the upstream would be told none.
is_placed(identity) if {
	is_string(of(identity))
}

is_placed(identity) if {
	object.get(data.federation.providers[identity.provider], "tenant", null) == null
}

is_placed(identity) if {
	identity.authenticated == false
}

# METADATA
# title: Whether a tenant exists
is_listed(name) if {
	is_object(data.federation.tenants[name])
}

# METADATA
# title: The name of the route parameter that holds a tenant
parameter := object.get(data.federation, "tenant_parameter", "tenant")
