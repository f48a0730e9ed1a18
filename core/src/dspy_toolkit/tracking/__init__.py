"""Runs in MLflow: a process of its own reads a run's journal and tells an MLflow server or database what is in it.

    run ──appends──▶ journal.db ◀──follows── python -m dspy_toolkit.tracking RUN-FOLDER ──▶ MLflow
                                             keeps tracking.json: how far it came

The journal is the one record; MLflow is a copy that can be made at any time, and twice gives the same. So a server that
is slow, dead or absent neither slows a run down nor costs it anything, and what could not be sent is sent later.
"""
