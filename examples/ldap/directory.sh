#!/bin/sh
# Serves people.ldif on loopback with a slapd of its own, as long as it runs. Usage: directory.sh [ADDRESS:PORT]
set -eu
cd "$(dirname "$0")"
address=${1:-127.0.0.1:3890}
data=$PWD/.directory
rm -rf "$data"

mkdir -p "$data/db"
cat > "$data/slapd.conf" <<END
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile $data/slapd.pid
database mdb
suffix "dc=example,dc=com"
directory $data/db
index objectClass,uid,member eq
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=gateway,ou=services,dc=example,dc=com" read by * none
END
/usr/sbin/slapadd -q -f "$data/slapd.conf" -l people.ldif
exec /usr/sbin/slapd -d 0 -f "$data/slapd.conf" -h "ldap://$address"
