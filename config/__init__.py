"""What does the user want?

Kuma's resources from YAML, validated with Kuma's own messages, resolved into one immutable :class:`config.plan.Plan`.
No socket and no event loop: everything here can be tested, printed and compared.
"""
