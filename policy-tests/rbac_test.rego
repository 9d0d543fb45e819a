package gateway.rbac_test

import data.gateway.rbac

grants := {
	"reader": {"routes": {"orders": {"read-order": ["GET", "HEAD"]}}},
	"archivist": {"paths": {"/archive": ["GET"], "/v1/archive": ["GET", "DELETE"]}},
	"marker": {},
}

permitted(roles, request, api) if {
	rbac.permitted with input as {"request": request, "api": api}
		with data.gateway.federation.roles as roles
		with data.rbac as grants
}

get(path) := {"method": "GET", "path": path}

read_order := {"name": "orders", "route": "read-order"}

test_a_route_is_permitted_by_method if {
	permitted({"reader"}, get("/v2/orders/42"), read_order)
	permitted({"reader"}, {"method": "HEAD", "path": "/v2/orders/42"}, read_order)
	not permitted({"reader"}, {"method": "DELETE", "path": "/v2/orders/42"}, read_order)
	not permitted({"reader"}, {"method": "get", "path": "/v2/orders/42"}, read_order)
}

test_a_route_is_permitted_by_its_api_and_name if {
	not permitted({"reader"}, get("/v2/orders"), {"name": "orders", "route": "list-orders"})
	not permitted({"reader"}, get("/v2/orders/42"), {"name": "billing", "route": "read-order"})
}

test_a_path_is_permitted_by_prefix_and_method if {
	permitted({"archivist"}, get("/archive/2024"), {"name": "files"})
	permitted({"archivist"}, {"method": "DELETE", "path": "/v1/archive/2024"}, {"name": "files"})
	not permitted({"archivist"}, {"method": "DELETE", "path": "/archive/2024"}, {"name": "files"})
	not permitted({"archivist"}, get("/archives"), {"name": "files"})
}

test_one_role_that_permits_is_enough if {
	permitted({"marker", "reader", "unheard-of"}, get("/v2/orders/42"), read_order)
	permitted({"archivist", "unheard-of"}, get("/archive"), {"name": "files"})
}

test_roles_without_grants_permit_nothing if {
	not permitted(set(), get("/v2/orders/42"), read_order)
	not permitted({"marker"}, get("/v2/orders/42"), read_order)
	not permitted({"unheard-of"}, get("/v2/orders/42"), read_order)
}

test_a_missing_method_is_not_permitted if {
	not permitted({"reader", "archivist"}, {"path": "/archive"}, read_order)
}

test_a_missing_route_is_not_permitted if {
	not permitted({"reader"}, get("/v2/orders/42"), {"name": "orders"})
	not permitted({"reader"}, get("/v2/orders/42"), {"route": "read-order"})
	not permitted({"reader"}, get("/v2/orders/42"), {})
}

test_grants_of_the_wrong_shape_permit_nothing if {
	shapes := [
		null,
		true,
		"GET",
		["GET"],
		{"routes": "GET"},
		{"routes": {"orders": "GET"}},
		{"routes": {"orders": {"read-order": "GET"}}},
		{"paths": "/"},
		{"paths": ["/"]},
		{"paths": {"/": "GET"}},
	]
	every shape in shapes {
		not rbac.permitted with input as {"request": get("/v2/orders/42"), "api": read_order}
			with data.gateway.federation.roles as {"reader"}
			with data.rbac as {"reader": shape}
	}
}

test_without_data_nothing_is_permitted if {
	not rbac.permitted with input as {"request": get("/"), "api": read_order}
		with data.gateway.federation.roles as {"reader"}
		with data.rbac as {}
}

# Whether the caller may act in the tenant of a request: `held` are its roles that hold everywhere.
in_tenant(known, held) if {
	rbac.tenant_permitted with data.gateway.tenants.at_home as false
		with data.gateway.tenants.is_known as known
		with data.gateway.federation.everywhere as held
		with data.federation as {"cross_tenant": ["support", 7]}
}

test_at_home_no_role_is_needed_for_the_tenant if {
	rbac.tenant_permitted with data.gateway.tenants.at_home as true with data.federation as {}
}

test_elsewhere_a_role_for_all_tenants_is_needed if {
	in_tenant(true, {"reader", "support"})
	not in_tenant(true, {"reader"})
	not in_tenant(true, set())
}

test_no_role_opens_a_tenant_that_does_not_exist if {
	not in_tenant(false, {"support"})
}

test_roles_for_all_tenants_of_the_wrong_shape_open_nothing if {
	every shape in [null, true, "support", 7, {}, [["support"]], [null]] {
		not rbac.tenant_permitted with data.gateway.tenants.at_home as false
			with data.gateway.tenants.is_known as true
			with data.gateway.federation.everywhere as {"support"}
			with data.federation as {"cross_tenant": shape}
	}
}
