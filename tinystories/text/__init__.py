"""The English of children's stories: sentences, word lists, rules that find faults. Needs neither torch nor a model."""
