# METADATA
# title: Allows everything, to measure the gateway without a policy
package gateway

decision := {"allow": true}
