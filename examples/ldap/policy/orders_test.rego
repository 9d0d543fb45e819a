package orders_test

import data.orders

caller(groups) := {"authenticated": true, "subject": "ada", "groups": groups}

decided(identity, route) := decision if {
	decision := orders.decision with input as {"identity": identity, "api": {"route": route}}
}

test_staff_reads_orders if decided(caller(["staff"]), "read-order").allow

test_staff_cancels_none if not decided(caller(["staff"]), "cancel-order").allow

test_managers_cancel_orders if decided(caller(["managers"]), "cancel-order").allow

test_others_read_nothing if not decided(caller([]), "read-order").allow

test_nobody_is_asked_to_log_in if decided({"authenticated": false}, "read-order").status == 401

test_the_status_is_for_everyone if decided({"authenticated": false}, "status").allow

test_unknown_routes_are_closed if not decided(caller(["staff", "managers"]), "other").allow
