"""What a store holds of finished stages: list it, check it, pin it, trace it. Only reads, except
where a function's name says otherwise. Prints nothing."""
