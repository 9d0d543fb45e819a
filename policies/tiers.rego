# METADATA
# scope: package
# title: Limits by tier
# description: |
#   Each caller is in one tier, and a tier is a list of limits in `data.tiers.limits`. The tier is an attribute of the
#   identity (`tier`), else the first in `data.tiers.by_role` whose role the caller has, else `data.tiers.default`.
#   Where no limits can be told there are none to apply, and the entry point denies.
# custom:
#   data: [tiers]
package gateway.tiers

import data.gateway.federation

# METADATA
# scope: document
# title: The caller's tier
tier := name if {
	name := input.identity.attributes.tier
	is_array(data.tiers.limits[name])
} else := by_role[0] if {
	count(by_role) > 0
} else := data.tiers.default

# METADATA
# title: The tiers of the caller's roles
# description: In the order of the data, so that the first one decides.
by_role := [entry.tier |
	some entry in data.tiers.by_role
	entry.role in federation.roles
]

# METADATA
# scope: document
# title: Whose counter a request takes from
# description: The subject at its provider, or the source address of a caller without a credential.
key := concat("/", [input.identity.provider, input.identity.subject]) if {
	input.identity.authenticated == true
}

key := input.source.ip if {
	input.identity.authenticated == false
}

# METADATA
# title: The limits to take from
# description: |
#   Undefined, never empty, where an entry of the tier is not an object: a fault in the data must not lift a limit.
limits := taken if {
	owner := key
	configured := data.tiers.limits[tier]
	is_array(configured)
	every limit in configured {
		is_object(limit)
	}
	taken := [object.union(limit, {"key": owner}) | some limit in configured]
}
