"""First names by gender, and names of animals: for the sample stories, and for rules that find names in stories.

Names that are also another word at the beginning of a sentence ("Will", "Mark", "Joy") are left out.
"""

GIRLS = tuple(
    """Lily Mia Anna Sara Lucy Emma Ella Rosie Ruby Molly Amy Zoe Nina Clara Daisy Maya Nora Poppy Tess Jane Kate Lola
    Hana Leila Priya Rosa Sofia Eva Ada Mei Amina Hazel Jill Penny Wendy Alice Maria Yuki Fatima Elsie Abby
    Agnes Alma Amber Amelia Anita Annie Aria Aisha Ava Becky Bess Beth Betty Bianca Bridget Camila Cara Carla
    Carmen Carol Celia Chloe Cindy Cora Dana Debbie Delia Diana Dina Dolly Donna Dora Edith Elena Eliza Ellen
    Ellie Emily Erin Esme Ester Etta Fay Fiona Flo Freya Gemma Gina Grace Greta Gwen Hanna Harriet Hattie Heidi
    Helen Hilda Holly Ida Ines Irene Iris Isla Ivy Jackie Jana Janet Jasmine Jenny Jessie Joan Jodie Josie Judy
    Julia Karen Kathy Katie Keira Kelly Kim Kira Kitty Lara Laura Lea Lena Lila Linda Lisa Liz Lora Lotte Louise
    Lydia Mabel Maggie Mandy Mara Margo Marta Mary Matilda Meg Melissa Mila Millie Mina Minnie Mira Mona Nadia
    Nancy Naomi Natalie Nell Nicole Nila Noor Olga Olive Olivia Paige Pam Patty Paula Peggy Petra Phoebe Polly
    Rachel Rania Rebecca Rina Rita Robin Romy Sally Salma Sandra Sasha Selma Shelly Sienna Silvia Sonia Stella
    Sue Susie Sylvie Tania Tara Tina Thea Trudy Una Ursula Vera Vicky Viola Violet Willa Xenia Yara Yasmin Zara
    Zelda Zuri""".split()
)
BOYS = tuple(
    """Tom Tim Ben Max Sam Leo Jack Finn Noah Omar Theo Jake Adam Billy Danny Eddie Fred George Harry Henry Hugo Ivan
    Jamal Joe Kai Kevin Liam Milo Nick Oliver Oscar Owen Paul Peter Ravi Simon Toby Zack Diego Mateo Aaron Abel
    Adrian Ahmed Alan Albert Alec Alfie Ali Amir Andre Andy Angus Anton Archie Arlo Arthur Asher Austin Barry
    Basil Benny Bert Bob Boris Brad Brian Bruce Bryan Caleb Calvin Carl Carlos Casey Cedric Charlie Chris Clive
    Cody Colin Conor Craig Damian Dan Darren Dave David Dean Dennis Derek Dexter Dirk Dominic Doug Duncan Dylan
    Edgar Edwin Eli Elias Elliot Emil Enzo Eric Ernie Ethan Evan Felix Filip Frank Gabe Gary Gavin Gilbert Glen
    Gordon Greg Gus Hans Hassan Hector Howard Ian Igor Isaac Ismail Jacob Jared Jason Jasper Jay Jeff Jeremy
    Jerry Jim Jimmy Joel John Jonas Jordan Jose Josh Juan Jude Karl Keith Ken Kenji Kyle Lance Lars Lenny Leon
    Lewis Lionel Logan Louis Luca Lucas Luis Luke Malik Manny Marco Marvin Mason Matt Micah Mick Mike Miles
    Mitch Mohamed Morris Nate Nathan Ned Neil Nico Nigel Noel Norman Otis Pablo Pedro Perry Phil Pierre Quentin
    Raj Ralph Ramon Reggie Rex Rick Roger Ron Roy Rory Ross Rufus Russ Ryan Samir Scott Sean Seth Sid Stan Steve
    Stuart Ted Terry Todd Tony Tommy Trent Troy Tyler Umar Uri Vern Victor Vince Walt Warren Wyatt
    Yusuf Zane""".split()
)
ANIMALS = tuple(
    """Pip Bruno Buddy Rusty Spot Bobo Ziggy Barnaby Tucker Monty Otto Rocky Sparky Digby Percy Coco Bella Luna Dot
    Fern Willow Mimi Kiki Lulu Misty Tilly Trixie Bonnie Flora Clover""".split()
)
# Not among the names of the sample stories.
MORE_GIRLS = ("Sarah", "Sophie", "Lilly")
MORE_BOYS = ("Timmy", "Bobby", "Teddy", "Freddie", "Willy")
_OTHERS = tuple("""Sammy Mittens Whiskers Roxy Fin""".split())
FIRST_NAMES = frozenset((*GIRLS, *BOYS, *ANIMALS, *MORE_GIRLS, *MORE_BOYS, *_OTHERS))
