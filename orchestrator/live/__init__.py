"""The live page of a job: a web server over the store, which needs neither Ray nor the cluster."""
