# METADATA
# scope: package
# title: Path prefixes
# description: Compares whole segments of the canonical path, so that `/orders` never covers `/orders-archive`.
package gateway.paths

# METADATA
# title: Whether the request's path is the prefix or lies below it
# description: A prefix begins with a slash; one slash at its end changes nothing.
within(prefix) if {
	is_string(input.request.path)
	is_string(prefix)
	startswith(prefix, "/")
	below := concat("", [trim_suffix(prefix, "/"), "/"])
	startswith(concat("", [input.request.path, "/"]), below)
}
