package catalogue_test

import data.catalogue

tables := {
	"products": {"roles": ["anyone"], "parameters": ["category", "_sort"], "search": "any", "rows": 20},
	"customers": {"roles": ["support"], "parameters": ["email"], "search": "email", "rows": 1},
}

nobody := {"authenticated": false}

key(role) := {"authenticated": true, "provider": "keys", "type": "api_key", "subject": "someone", "roles": [role]}

asked(name, query, identity) := {
	"api": {"name": "shop", "route": "read-table"},
	"request": {"method": "GET", "path": concat("", ["/shop/", name]), "segments": ["shop", name], "query": query},
	"identity": identity,
	"source": {"ip": "127.0.0.1"},
}

decision(input_document) := result if {
	result := catalogue.decision with input as input_document with data.tables as tables
}

test_anyone_reads_a_published_table if {
	result := decision(asked("products.json", {"category": ["kitchen"]}, nobody))
	result.allow == true
	result.upstream.query.set == {"_shape": "array", "_size": "20"}
	result.limits == [{"name": "address", "key": "127.0.0.1", "rate": "30/1m", "burst": 5}]
}

test_a_key_has_its_own_counter if {
	result := decision(asked("products.json", {}, key("support")))
	result.limits == [{"name": "key", "key": "someone", "rate": "120/1m", "burst": 20}]
}

test_parameters_with_sql_are_denied if {
	every name in ["_where", "_facet", "_size", "_shape", "sql", "category__contains", "CATEGORY", ""] {
		decision(asked("products.json", {name: ["x"]}, nobody)).reason == "parameter_not_allowed"
	}
}

test_one_bad_parameter_spoils_the_good_ones if {
	decision(asked("products.json", {"category": ["kitchen"], "_where": ["1=1"]}, nobody)).allow == false
}

test_a_parameter_given_twice_is_denied if {
	decision(asked("products.json", {"category": ["kitchen", "office"]}, nobody)).reason == "parameter_not_allowed"
	decision(asked("products.json", {"category": []}, nobody)).reason == "parameter_not_allowed"
}

test_people_are_searched_and_never_listed if {
	decision(asked("customers.json", {"email": ["ada@example.com"]}, key("support"))).allow == true
	decision(asked("customers.json", {}, key("support"))).reason == "search_too_wide"
	decision(asked("customers.json", {"email": [""]}, key("support"))).reason == "search_too_wide"
}

test_a_table_is_for_its_roles if {
	decision(asked("customers.json", {"email": ["ada@example.com"]}, key("analyst"))).reason == "not_published"
	decision(asked("customers.json", {"email": ["ada@example.com"]}, nobody)).status == 401
}

test_other_tables_and_formats_are_not_published if {
	every name in ["secrets.json", "Products.json", "products", "products.csv", "~70roducts.json", ".json", ""] {
		decision(asked(name, {}, key("support"))).reason == "not_published"
	}
}

sql(query, identity) := {
	"api": {"name": "shop", "route": "run-sql"},
	"request": {"method": "GET", "path": "/shop.json", "segments": ["shop.json"], "query": query},
	"identity": identity,
	"source": {"ip": "127.0.0.1"},
}

test_sql_is_for_one_role_and_is_logged if {
	result := decision(sql({"sql": ["select 1"]}, key("dba")))
	result.allow == true
	result.log.fields.sql == "select 1"
	decision(sql({"sql": ["select 1"]}, key("analyst"))).allow == false
	decision(sql({"sql": ["select 1"]}, nobody)).status == 401
}

test_sql_is_one_parameter_and_no_other if {
	decision(sql({}, key("dba"))).allow == false
	decision(sql({"sql": ["select 1", "select 2"]}, key("dba"))).allow == false
	decision(sql({"sql": ["select 1"], "_extra": ["x"]}, key("dba"))).allow == false
}

good := asked("customers.json", {"email": ["ada@example.com"]}, key("support"))

fields := [
	["api"], ["api", "route"],
	["request"], ["request", "segments"], ["request", "query"],
	["identity"], ["identity", "authenticated"], ["identity", "roles"],
]

oddities := [null, 0, 1, "", "*", [], [[]], [null], {}, {"*": "*"}]

test_without_a_field_nothing_is_allowed if {
	every path in fields {
		decision(json.remove(good, [path])).allow == false
	}
	decision(null).allow == false
}

test_with_something_else_in_its_place_nothing_is_allowed if {
	every path in fields {
		every oddity in oddities {
			decision(json.patch(good, [{"op": "replace", "path": path, "value": oddity}])).allow == false
		}
	}
}

test_without_limits_nothing_is_allowed if {
	decision(json.remove(good, [["identity", "subject"]])).allow == false
	decision(json.remove(asked("products.json", {}, nobody), [["source", "ip"]])).allow == false
}

test_without_data_nothing_is_allowed if {
	catalogue.decision.allow == false with input as good with data.tables as {}
}
