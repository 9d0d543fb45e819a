# METADATA
# scope: package
# title: The shop's catalogue
# description: |
#   Rules that the service behind does not have: which tables are published to whom, by which columns they may be
#   searched, and how many rows come out at a time. Everything else is denied, above all query parameters that are not
#   listed: Datasette takes SQL in several of them.
package catalogue

# METADATA
# scope: document
# title: The decision for one request
# entrypoint: true
default decision := {"allow": false, "reason": "not_published"}

decision := {
	"allow": true,
	"reason": "table_published",
	"limits": limits,
	# A list of rows and nothing about the database, and never more rows than the table gives out.
	"upstream": {"query": {"set": {"_shape": "array", "_size": format_int(table.rows, 10)}}},
	"response": {"headers": edits},
} if {
	readable
	parameters_known
	search_narrow
} else := {
	"allow": true,
	"reason": "sql_permitted",
	"limits": limits,
	"log": {"fields": {"sql": sql}},
	"response": {"headers": edits},
} if {
	sql
} else := {"allow": false, "reason": "parameter_not_allowed", "expose_reason": true} if {
	readable
	not parameters_known
} else := {"allow": false, "reason": "search_too_wide", "expose_reason": true} if {
	readable
	not search_narrow
} else := {
	"allow": false,
	"reason": "unauthenticated",
	"expose_reason": true,
	"status": 401,
	"headers": {"www-authenticate": "ApiKey realm=\"shop\""},
} if {
	input.identity.authenticated == false
}

# METADATA
# scope: document
# title: The roles of the caller
# description: Those of the API key, and `anyone`.
roles contains "anyone"

roles contains role if {
	input.identity.authenticated == true
	is_array(input.identity.roles)
	some role in input.identity.roles
}

# METADATA
# title: The rules of the table that is asked for
# description: Tables are asked for as JSON; the path's last segment names one.
table := data.tables[trim_suffix(segment, ".json")] if {
	input.api.route == "read-table"
	segment := input.request.segments[1]
	is_string(segment)
	endswith(segment, ".json")
}

# METADATA
# scope: document
# title: Whether one of the caller's roles may read the table
default readable := false

readable if {
	some role in table.roles
	role in roles
}

# METADATA
# scope: document
# title: Whether all query parameters are among those that the table allows
default parameters_known := false

parameters_known if {
	is_object(input.request.query)
	every name, values in input.request.query {
		name in table.parameters
		count(values) == 1
	}
}

# METADATA
# scope: document
# title: Whether the search says whom it is about
# description: A table of people is searched by one exact value, never listed.
default search_narrow := false

search_narrow if {
	table.search == "any"
}

search_narrow if {
	[value] := input.request.query[table.search]
	value != ""
}

# METADATA
# title: The query of a caller who may write SQL
sql := text if {
	input.api.route == "run-sql"
	"dba" in roles
	object.keys(input.request.query) == {"sql"}
	[text] := input.request.query.sql
}

# METADATA
# scope: document
# title: Limits by caller
# description: A key has its own counter; everyone else shares that of the source address.
limits := [{"name": "key", "key": input.identity.subject, "rate": "120/1m", "burst": 20}] if {
	input.identity.authenticated == true
}

limits := [{"name": "address", "key": input.source.ip, "rate": "30/1m", "burst": 5}] if {
	input.identity.authenticated == false
}

# METADATA
# title: Edits to each response
# description: Links and the server's name tell of the service behind.
edits := {"set": {"cache-control": "no-store", "x-content-type-options": "nosniff"}, "remove": ["server", "link"]}
