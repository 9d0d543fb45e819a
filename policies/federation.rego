# METADATA
# scope: package
# title: Federated roles
# description: |
#   Turns what a provider proved about a caller (roles, groups, scopes and claims of a token, an API key, a certificate, a
#   directory entry) into the roles that this gateway knows. The mapping is kept per provider, `data.federation.providers`,
#   so that a name means nothing when another provider says it, and a name that is not mapped gives nothing. A tenant has
#   mappings of its own, `data.federation.tenants`, whose roles hold in that tenant only.
# custom:
#   data: [federation]
package gateway.federation

import data.gateway.proven
import data.gateway.tenants

# METADATA
# scope: document
# title: The caller's roles for this request
# description: Those of the first identity, where an API asks for several.
roles contains role if {
	some role in roles_of(input.identity)
}

# METADATA
# scope: document
# title: The caller's roles that hold in every tenant
everywhere contains role if {
	some role in everywhere_of(input.identity)
}

# METADATA
# title: The roles of an identity for this request
# description: |
#   In its own tenant those that hold there, too. With `require: all` in the configuration another one of the identities
#   is asked for its roles by `federation.roles_of(input.identity.all.devices)`; undefined where there is no such identity.
roles_of(identity) := everywhere_of(identity) | in_tenant_of(identity)

# METADATA
# title: The roles of an identity that hold in every tenant
# description: Everything that its provider's mapping gives; the anonymous roles for nobody.
everywhere_of(identity) := granted(data.federation.providers[identity.provider], identity) if {
	identity.authenticated == true
}

everywhere_of(identity) := {role | some role in data.federation.anonymous; is_string(role)} if {
	identity.authenticated == false
}

# METADATA
# title: The roles of an identity that hold in its tenant only
in_tenant_of(identity) := {role |
	tenants.stays(identity)
	some role in granted(data.federation.tenants[tenants.of(identity)].providers[identity.provider], identity)
}

# METADATA
# title: The roles that a mapping gives for what was proven
# description: Each is looked up by its name; a mapping has only the kinds that it needs.
granted(mapping, identity) := union({
	{role | is_array(identity.roles); some name in identity.roles; some role in mapping.roles[name]; is_string(role)},
	{role | is_array(identity.groups); some name in identity.groups; some role in mapping.groups[name]; is_string(role)},
	{role | is_array(identity.scopes); some name in identity.scopes; some role in mapping.scopes[name]; is_string(role)},
	{role | some role in mapping.subjects[identity.subject]; is_string(role)},
	{role | some role in mapping.keys[identity.attributes.key_id]; is_string(role)},
	{role | some role in mapping.issuers[identity.issuer]; is_string(role)},
	{role | some role in mapping.trust_domains[proven.trust_domain(identity)]; is_string(role)},
	{role |
		some claim, values in mapping.claims
		some name in proven.names(identity.claims[claim])
		some role in values[name]
		is_string(role)
	},
	{role |
		some entry in mapping.nested_claims
		some name in proven.names(proven.claim(identity, entry.claim))
		some role in entry.roles[name]
		is_string(role)
	},
	{role |
		some attribute, values in mapping.attributes
		some name in proven.names(identity.attributes[attribute])
		some role in values[name]
		is_string(role)
	},
})
