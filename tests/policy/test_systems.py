from specact_rl.policy.systems import NUM_PROPOSALS, SYSTEMS, num_judged


def test_verifiers_judge_as_many_samples_as_some_system_shows_them():
    assert num_judged("classifier", "cheap") == NUM_PROPOSALS  # E offers them all
    assert num_judged("linear_with_confidence", "cheap") == NUM_PROPOSALS  # E-lin+
    assert num_judged("sample_agreement", "cheap") == NUM_PROPOSALS  # compares them
    assert num_judged("strong_judge", "cheap") == 1
    assert num_judged("classifier", "cheap_dpo") == 1
    assert num_judged("nobody", "cheap") == 1


def test_no_system_is_shown_fewer_samples_than_it_offers():
    for system in SYSTEMS.values():
        if system.verifier is not None and system.proposer is not None:
            judged = num_judged(system.verifier, system.proposer)
            assert judged >= max(system.num_proposals, system.num_compared)
