"""Redis, by which workers are woken: Celery's application, its transport, and when to send a wake-up."""
