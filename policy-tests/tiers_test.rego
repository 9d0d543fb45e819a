package gateway.tiers_test

import data.gateway.tiers

plans := {
	"default": "standard",
	"by_role": [{"role": "trial", "tier": "trial"}, {"role": "partner", "tier": "partner"}],
	"limits": {
		"standard": [{"name": "standard", "rate": "50/1s"}],
		"trial": [{"name": "trial", "rate": "2/1m", "burst": 2}],
		"partner": [{"name": "second", "rate": "20/1s"}, {"name": "day", "rate": "1000/1d"}],
		"free": [],
		"broken": [{"name": "fine", "rate": "1/1s"}, "1/1s"],
		"worse": {"name": "fine", "rate": "1/1s"},
	},
}

alice := {"authenticated": true, "provider": "corp", "subject": "alice"}

tier_of(identity, roles) := tier if {
	tier := tiers.tier with input as {"identity": identity}
		with data.gateway.federation.roles as roles
		with data.tiers as plans
}

limits_of(identity, roles) := limits if {
	limits := tiers.limits with input as {"identity": identity, "source": {"ip": "192.0.2.7"}}
		with data.gateway.federation.roles as roles
		with data.tiers as plans
}

in_tier(tier) := object.union(alice, {"attributes": {"tier": tier}})

test_the_attribute_comes_first if {
	tier_of(in_tier("partner"), {"trial"}) == "partner"
}

test_an_unknown_attribute_is_passed_over if {
	tier_of(in_tier("platinum"), {"trial"}) == "trial"
	tier_of(in_tier(null), {"trial"}) == "trial"
	tier_of(in_tier(["limits"]), {"trial"}) == "trial"
	tier_of(in_tier("worse"), {"trial"}) == "trial"
}

test_the_first_entry_whose_role_the_caller_has_comes_next if {
	tier_of(alice, {"partner", "trial"}) == "trial"
	tier_of(alice, {"partner", "reader"}) == "partner"
}

test_the_default_comes_last if {
	tier_of(alice, {"reader"}) == "standard"
	tier_of(alice, set()) == "standard"
	tier_of({}, set()) == "standard"
}

test_a_known_caller_has_a_counter_of_its_own if {
	limits_of(alice, {"trial"}) == [{"name": "trial", "rate": "2/1m", "burst": 2, "key": "corp/alice"}]
}

test_an_anonymous_caller_shares_the_counter_of_its_address if {
	limits_of({"authenticated": false}, set()) == [{"name": "standard", "rate": "50/1s", "key": "192.0.2.7"}]
}

test_a_tier_may_have_several_limits_in_their_order if {
	[limit.name | some limit in limits_of(alice, {"partner"})] == ["second", "day"]
}

test_a_tier_without_limits_is_unlimited_by_intent if {
	limits_of(in_tier("free"), set()) == []
}

test_a_fault_in_the_data_lifts_no_limit if {
	not limits_of(in_tier("broken"), set())
	not tiers.limits with input as {"identity": alice}
		with data.gateway.federation.roles as set()
		with data.tiers as {"default": "worse", "by_role": [], "limits": plans.limits}
	not tiers.limits with input as {"identity": alice}
		with data.gateway.federation.roles as set()
		with data.tiers as {"default": "none", "by_role": [], "limits": plans.limits}
	not tiers.limits with input as {"identity": alice} with data.gateway.federation.roles as set() with data.tiers as {}
}

test_an_entry_of_the_wrong_shape_hides_no_other if {
	tier := tiers.tier with input as {"identity": alice}
		with data.gateway.federation.roles as {"trial"}
		with data.tiers as {"default": "standard", "by_role": [7, {"tier": "partner"}, {"role": "trial", "tier": "trial"}]}
	tier == "trial"
}

test_without_a_key_there_are_no_limits if {
	not limits_of({"authenticated": true, "provider": "corp"}, set())
	not limits_of({"authenticated": true, "subject": "alice"}, set())
	not limits_of({"authenticated": "true", "provider": "corp", "subject": "alice"}, set())
	not limits_of({}, set())
	not tiers.limits with input as {"identity": {"authenticated": false}}
		with data.gateway.federation.roles as set()
		with data.tiers as plans
}
