# METADATA
# scope: package
# title: Federated roles
# description: |
#   Turns what a provider proved about a caller (token roles, groups, the roles of an API key, the subject of a
#   certificate) into the roles that this gateway knows. The mapping is kept per provider, `data.federation.providers`,
#   so that a role name means nothing when another provider says it, and a name that is not mapped gives nothing.
# custom:
#   data: [federation]
package gateway.federation

# METADATA
# scope: document
# title: The caller's roles
# description: Everything the caller's provider, groups and subject are mapped to; the anonymous roles for nobody.
roles contains role if {
	is_array(input.identity.roles)
	some name in input.identity.roles
	some role in mapping.roles[name]
}

roles contains role if {
	is_array(input.identity.groups)
	some name in input.identity.groups
	some role in mapping.groups[name]
}

roles contains role if {
	some role in mapping.subjects[input.identity.subject]
}

roles contains role if {
	input.identity.authenticated == false
	some role in data.federation.anonymous
}

# METADATA
# title: The mapping of the caller's provider
mapping := data.federation.providers[input.identity.provider] if {
	input.identity.authenticated == true
}
