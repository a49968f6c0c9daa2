"""Kuma's policies, from documents to what a cluster is run with.

``target_ref`` and ``policy`` say what every policy has, ``confs`` and the kinds under ``config/resources/`` what each
one sets; ``selection`` finds the policies of a Dataplane and those that concern a service, in Kuma's order; ``merge``
makes one of several; ``apply`` turns the result into fields of a :class:`~config.plan.ClusterPlan`.
"""
