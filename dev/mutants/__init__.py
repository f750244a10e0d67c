"""``make mutants``: count the small faults in the pure packages that the unit tests detect.

mutmut 3.8 would plant no fault in tables, constants, properties and cached functions, which have
1,121 of our 9,865 mutants (the stages are such a table), and many in messages, which no test should
repeat. cosmic-ray would start and collect the tests anew for each mutant.
"""
