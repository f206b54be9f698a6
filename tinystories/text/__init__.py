"""The English of children's stories, without a model: sentences, word lists, and rules that find faults."""
