"""Hospitals on a network: coordinator and sites speak signed HTTPS, pulled by the sites."""
