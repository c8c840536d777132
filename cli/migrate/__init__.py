"""`tokenwire migrate`: bring APIs, policies and client apps from other systems."""
