package gateway.paths_test

import data.gateway.paths

within(path, prefix) if {
	paths.within(prefix) with input as {"request": {"path": path}}
}

test_a_prefix_covers_itself_and_what_lies_below if {
	within("/v2/orders", "/v2/orders")
	within("/v2/orders/", "/v2/orders")
	within("/v2/orders/42", "/v2/orders")
	within("/v2/orders/42/lines", "/v2/orders")
}

test_whole_segments_are_compared if {
	not within("/v2/orders-archive", "/v2/orders")
	not within("/v2/order", "/v2/orders")
	not within("/v2", "/v2/orders")
	not within("/V2/orders", "/v2/orders")
}

test_a_slash_at_the_end_changes_nothing if {
	within("/v2/orders", "/v2/orders/")
	within("/v2/orders/42", "/v2/orders/")
	not within("/v2/orders-archive", "/v2/orders/")
}

test_the_root_covers_everything if {
	within("/", "/")
	within("/v2/orders", "/")
}

test_what_is_not_a_path_covers_nothing if {
	every prefix in ["", "v2", 7, null, ["/v2"]] {
		not within("/v2/orders", prefix)
	}
}

test_a_missing_path_is_covered_by_nothing if {
	not paths.within("/") with input as {}
	not paths.within("/") with input as {"request": {"path": 7}}
}
