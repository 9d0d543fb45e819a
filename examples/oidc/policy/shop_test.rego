package shop_test

import data.shop

anonymous := {"authenticated": false}

customer := {"authenticated": true, "subject": "bob", "groups": ["staff"]}

manager := {"authenticated": true, "subject": "alice", "groups": ["staff", "managers"]}

allowed(who, path) if shop.decision.allow with input as {"identity": who, "request": {"path": path}}

test_anybody_may_look if allowed(anonymous, "/shop")

test_orders_need_a_customer if {
	not allowed(anonymous, "/shop/orders")
	allowed(customer, "/shop/orders")
}

test_figures_are_for_managers if {
	not allowed(anonymous, "/shop/figures")
	not allowed(customer, "/shop/figures")
	allowed(manager, "/shop/figures")
}

test_the_shop_is_told_who_it_is if {
	decision := shop.decision with input as {"identity": customer, "request": {"path": "/shop/orders"}}
	decision.upstream.headers.set["x-user"] == "bob"
}
