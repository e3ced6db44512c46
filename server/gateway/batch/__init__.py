"""``/v1/suffice/batch``: many questions under one token budget, each next sample where it counts most.

    endpoint    one HTTP request on its way through: receive, plan, reserve, run, settle, record, answer
    request     its body, checked
    saved       the state that a client sends back to go on: untrusted, checked
    limits      the operator's ceilings and the request's limits, merged for the whole batch
    question    what is known of one question
    sampler     one sample: planned, driven like any request, told; where samples are launched
    run         the loop: what to launch next, what came of it, when to end
    account     the key's account: reserved once, settled once
    telling     the events and the final object that the client sees

Which question gets the next sample is decided by ``suffice.policies.allocation.batch``.
"""
