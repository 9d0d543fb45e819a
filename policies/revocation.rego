# METADATA
# scope: package
# title: Revocation
# description: |
#   What was proven and holds no more: a token by its `jti`, a session by its `sid`, everything that a subject was given
#   before a moment. All from `data.revocation`, which whoever revokes delivers as data of the bundle: no token has to be
#   asked about. Each list is an object and is looked up by key, so its length costs a request nothing.
# custom:
#   data: [revocation]
package gateway.revocation

# METADATA
# scope: document
# title: Whether nothing that the caller has shown is revoked
# description: |
#   Nobody in particular has nothing to revoke. What cannot be looked up, because the lists or the claims are not what
#   they must be, does not hold.
default valid := false

valid if {
	input.identity.authenticated == false
}

valid if {
	input.identity.authenticated == true
	token_valid
	session_valid
	subject_valid
}

# METADATA
# scope: document
# title: Whether the token itself is not revoked
# description: |
#   A `jti` is one issuer's (RFC 7519 section 4.1.7), and the provider's name stands for the issuer. A credential without
#   one is revoked by its subject.
default token_valid := false

token_valid if unlisted("tokens", token)

default token := ""

token := input.identity.claims.jti

# METADATA
# scope: document
# title: Whether the session that the token belongs to is not revoked
default session_valid := false

session_valid if unlisted("sessions", session)

default session := ""

session := input.identity.claims.sid

# METADATA
# scope: document
# title: Whether the caller has a credential that is newer than what its subject lost
# description: |
#   A subject is listed with a moment in seconds since 1970: tokens that were issued before are revoked. A token that
#   does not say when it was issued is revoked too, and so is a key or certificate, which has no such time.
default subject_valid := false

subject_valid if revoked_before == false

subject_valid if {
	is_number(revoked_before)
	issued_at := input.identity.claims.iat
	is_number(issued_at)
	issued_at >= revoked_before
}

revoked_before := moment if {
	subject := input.identity.subject
	is_string(subject)
	moments := object.get(lists, "subjects", {})
	is_object(moments)
	moment := object.get(moments, subject, false)
}

# METADATA
# title: Whether a list of the caller's provider lacks a name
unlisted(list, name) if {
	is_string(name)
	names := object.get(lists, list, {})
	is_object(names)
	object.get(names, name, false) == false
}

# METADATA
# title: The lists of the caller's provider
# description: A provider that has none has nothing revoked; without `data.revocation` nothing holds.
lists := found if {
	is_object(data.revocation)
	found := object.get(data.revocation, input.identity.provider, {})
	is_object(found)
}
