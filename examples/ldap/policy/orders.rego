# Who may do what with an order: by groups of the directory, and not by names of people.
package orders

default decision := {"allow": false, "reason": "group_not_permitted"}

# Without a password there is nobody to ask about, and the client is told how to log in.
decision := {"allow": false, "status": 401, "reason": "unauthenticated"} if {
	not input.identity.authenticated
	not is_public
}

decision := {"allow": true, "upstream": {"headers": {"set": told}}} if {
	is_public
}

decision := {"allow": true, "upstream": {"headers": {"set": told}}} if {
	not is_public
	input.identity.authenticated
	some group in permitted[input.api.route]
	group in input.identity.groups
}

permitted := {
	"read-order": {"staff"},
	"cancel-order": {"managers"},
}

is_public if input.api.route == "status"

# Whom the API is told about.
told := {"x-user": input.identity.subject, "x-groups": concat(",", input.identity.groups)} if {
	input.identity.authenticated
} else := {}
