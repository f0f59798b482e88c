"""Results on pictures and sentences that people made: Flickr8k, visual entailment on it, NLVR, and the ablation."""
