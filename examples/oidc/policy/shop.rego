# Who may see which page of the shop. A browser that is denied for want of an identity is sent to log in.
package shop

default decision := {"allow": false}

# Anybody may look at the shop window.
decision := {"allow": true} if {
	not input.identity.authenticated
	input.request.path == "/shop"
}

# Customers see their own orders, and the shop is told who they are.
decision := {"allow": true, "upstream": told} if {
	input.identity.authenticated
	not for_managers
}

# The day's figures are for managers alone.
decision := {"allow": true, "upstream": told} if {
	for_managers
	"managers" in input.identity.groups
}

for_managers if input.request.path == "/shop/figures"

told := {"headers": {"set": {"x-user": input.identity.subject}}}
