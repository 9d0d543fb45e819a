# METADATA
# title: Role-based access control of the benchmark
# description: A token's roles grant methods on API routes; everybody shares one generous limit per subject.
package gateway

default decision := {"allow": false, "reason": "no_role"}

decision := {"allow": true, "reason": "role", "limits": limits} if granted

granted if {
	some role in input.identity.roles
	input.request.method in data.grants[role][input.api.route]
}

limits := [{"name": "subject", "key": input.identity.subject, "rate": "1000000/1s"}]
