"""Every decision suffice makes, as pure state machines over recorded facts."""
