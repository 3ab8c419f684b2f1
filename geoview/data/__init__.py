"""Reading photos and pairs, and turning them into what an encoder sees."""
