"""A course: one small service that grows from lesson to lesson, and stops as it should.

``python -m trio_run.lessons`` lists the lessons, ``python -m trio_run.lessons 1`` runs the first.
"""
