"""Some 2,000 odd inputs: none ends in a traceback, none hangs; `python -m tests.fuzz.campaign` tries more."""

import pytest

from tests.fuzz.campaign import Campaign


@pytest.mark.slow
@pytest.mark.campaign
def test_odd_inputs_work_or_are_told_in_a_sentence(tmp_path):
    campaign = Campaign(tmp_path, seed=0)
    campaign.run(2000)
    print(campaign.table())
    assert campaign.count("traceback", "hang") == 0, campaign.faults()
