"""Other people's protocols over the same ranking: Open Inference Protocol v2 and the reranker shape."""
