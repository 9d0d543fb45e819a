# METADATA
# scope: package
# title: What was proven
# description: |
#   What a provider proved about the caller, in the form in which data is keyed by it. What is missing or of another type
#   has no value here, so that nothing is found under it.
package gateway.proven

# METADATA
# title: The texts of a value
# description: A text is one, a list is its texts; anything else has none.
names(value) := [value] if {
	is_string(value)
}

names(value) := [name | some name in value; is_string(name)] if {
	is_array(value)
}

# METADATA
# title: The value of a claim of an identity
# description: By its name, which may hold dots and slashes, or by a list of names, one inside the other.
claim(identity, path) := identity.claims[path] if {
	is_string(path)
}

claim(identity, path) := object.get(identity.claims, path, null) if {
	is_array(path)
	is_object(identity.claims)
}

# METADATA
# title: The trust domain of an identity's SPIFFE id
# description: |
#   Of `spiffe://example.org/device/7` it is `example.org`. The id is the one of the certificate's attributes, which a
#   certificate with several names does not have.
trust_domain(identity) := domain if {
	id := identity.attributes.spiffe_id
	is_string(id)
	startswith(id, "spiffe://")
	domain := split(id, "/")[2]
}
