# METADATA
# scope: package
# title: Allowlists
# description: |
#   Three conditions that hold for every caller, whatever the role: the path is published, the caller's network may use
#   the caller's provider, and the caller is one of the provider's known clients. All from `data.allowlist`; what is not
#   listed is not allowed.
# custom:
#   data: [allowlist]
package gateway.allowlist

import data.gateway.paths

# METADATA
# scope: document
# title: Whether the path is published
default path_allowed := false

path_allowed if {
	some prefix in data.allowlist.paths
	paths.within(prefix)
}

# METADATA
# scope: document
# title: Whether the source address may use the caller's provider
# description: The address is the client's own, as far as trusted proxies vouch for it.
default network_allowed := false

network_allowed if {
	is_string(input.source.ip)
	some network in data.allowlist.networks[origin]
	net.cidr_contains(network, input.source.ip)
}

# METADATA
# scope: document
# title: Whether the caller is a known client of its provider
# description: |
#   `true` lists a client, `false` suspends it at once, and `"*": true` lists everyone who has no entry of their own.
default client_allowed := false

client_allowed if {
	input.identity.authenticated == false
}

client_allowed if {
	input.identity.authenticated == true
	subject := input.identity.subject
	is_string(subject)
	subject != ""
	clients := data.allowlist.clients[input.identity.provider]
	object.get(clients, subject, object.get(clients, "*", false)) == true
}

# METADATA
# scope: document
# title: Where the caller's identity comes from
# description: The provider's name, or `anonymous` without a credential.
origin := input.identity.provider if {
	input.identity.authenticated == true
}

origin := "anonymous" if {
	input.identity.authenticated == false
}
