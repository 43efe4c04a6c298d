"""The long proofs that nothing is lost: whatever kills, stops or damages a run, it ends as one that nobody touched."""
