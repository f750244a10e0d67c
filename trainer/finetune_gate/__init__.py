"""The gate of a shared endpoint: the only listener of its pod, in front of vLLM with many adapters.

A public name answers only with an adapter that this start of vLLM has proved. The gate imports
neither torch nor Kubernetes. Read it in this order:

    wanted    what the operator signed; key_files adds the API keys of the jobs
    adapters  an adapter is copied from the claim, and every byte of the copy is compared; no_change
              is the adapter with which the base answers
    engine    vLLM behind its Unix socket, and which start of it runs
    proof     the loaded adapter is the trained one, also next to others and from the cache
    names     the table of the names that answer; swap makes the next one
    rollout   the loop that brings the table to what is wanted; report says how far it is
    failures  which adapters are tried again, and when; loaded says which one comes next
    fields, keys, bodies, fairness, proxy, server   one request, from the caller to vLLM and back
"""
