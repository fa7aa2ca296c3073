"""Ranks on this machine or a cluster: started, watched, restarted."""
