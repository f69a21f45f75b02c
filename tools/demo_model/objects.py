"""What the demo model can paint: 182 objects, and the names they go by."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Object:
    """A thing the model can paint: its emoji and the names it goes by, the first being its label."""

    emoji: str
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name shown in reports and on the contact sheet."""
        return self.names[0]


def _catalogue() -> tuple[Object, ...]:
    rows = """
    🌹 red rose, rose, rose flower
    🚗 red car, red sports car, car, sports car, red automobile
    😀 smiling face, happy face, smiling happy face, smile, grinning face
    🍎 red apple, apple
    🐱 cat, yellow cat, kitten, cat face
    🐶 dog, puppy, dog face
    💗 pink heart, heart, love heart
    ⭐ yellow star, star, golden star
    🔥 fire, flame, burning fire
    🌞 sun, yellow sun, smiling sun
    🌙 crescent moon, moon, yellow moon
    🌳 green tree, tree, oak tree
    🌴 palm tree, palm
    🌵 cactus, green cactus
    🌻 sunflower, yellow flower, yellow sunflower
    🌷 pink tulip, tulip
    🍄 red mushroom, mushroom, toadstool
    🍌 banana, yellow banana, bananas
    🍍 pineapple
    🍉 watermelon, slice of watermelon, watermelon slice
    🍇 grapes, purple grapes, bunch of grapes
    🍓 strawberry, red strawberry
    🍒 cherries, red cherries, cherry
    🍋 lemon, yellow lemon
    🥕 carrot, orange carrot
    🌽 corn, ear of corn, maize
    🍆 eggplant, aubergine, purple eggplant
    🥑 avocado, green avocado
    🍕 pizza, slice of pizza, pizza slice
    🍔 hamburger, burger, cheeseburger
    🍩 donut, doughnut, chocolate donut
    🎂 birthday cake, cake, cake with candles
    🍦 ice cream, ice cream cone, vanilla ice cream
    ☕ cup of coffee, coffee, coffee cup, hot coffee, cup of tea
    🍺 glass of beer, beer, mug of beer
    🐸 frog, green frog, frog face
    🐼 panda, panda bear, panda face
    🐷 pig, pink pig, pig face
    🐤 chick, yellow chick, little bird, yellow bird
    🐧 penguin
    🐠 tropical fish, fish, yellow fish
    🐳 blue whale, whale
    🐙 octopus, pink octopus
    🦋 orange butterfly, butterfly
    🐞 ladybug, ladybird, beetle
    🐢 turtle, green turtle, tortoise
    🐌 snail
    🦀 red crab, crab
    🦊 fox, orange fox, fox face
    🦁 lion, lion face
    🚌 bus, blue bus, city bus
    🚜 tractor, farm tractor
    🚲 bicycle, bike
    🚀 rocket, space rocket, spaceship
    ⛵ sailboat, sailing boat, boat
    🏠 house, small house, cottage
    ⛺ tent, orange tent, camping tent
    ☂️ purple umbrella, umbrella, open umbrella
    🎈 red balloon, balloon
    🎁 gift box, gift, present, gift with a ribbon
    ⚽ soccer ball, football, ball
    🏀 basketball, orange ball
    🏆 golden trophy, trophy, golden cup
    🎸 guitar, electric guitar
    ⏰ alarm clock, clock, red clock
    💡 light bulb, lightbulb, lamp
    🔑 golden key, key
    📕 red book, book, closed book
    👑 golden crown, crown
    🎩 top hat, black hat, hat
    📷 camera, photo camera
    💎 blue diamond, diamond, gem, jewel
    🤖 robot, robot face
    👻 white ghost, ghost
    ⛄ snowman
    🎃 pumpkin, halloween pumpkin, jack-o-lantern
    🌈 rainbow
    😡 angry face, angry red face, furious face
    🚦 traffic light, traffic lights
    🦜 green parrot, parrot
    🍏 green apple
    🍊 orange, tangerine, mandarin
    🍐 pear, green pear
    🍑 peach
    🥝 kiwi, kiwi fruit
    🍅 tomato, red tomato
    🥥 coconut
    🥦 broccoli
    🧀 cheese, piece of cheese, wedge of cheese
    🍞 bread, loaf of bread, slice of bread
    🥐 croissant
    🥨 pretzel
    🍳 fried egg, egg in a pan, egg
    🌮 taco
    🌭 hot dog
    🍟 french fries, fries, chips
    🍿 popcorn
    🍣 sushi
    🍪 cookie, chocolate chip cookie, biscuit
    🍫 chocolate bar, chocolate
    🍭 lollipop
    🧁 cupcake, muffin
    🍷 glass of red wine, glass of wine, wine
    🍸 cocktail, cocktail glass, martini
    🫖 teapot
    🐭 mouse, mouse face
    🐰 rabbit, bunny, rabbit face
    🐻 bear, brown bear, bear face
    🐨 koala
    🐯 tiger, tiger face
    🐮 cow, cow face
    🐵 monkey, monkey face
    🐔 chicken, hen
    🦄 unicorn
    🐝 bee, honey bee
    🐘 elephant
    🦒 giraffe
    🦓 zebra
    🐪 camel
    🐬 dolphin
    🦈 shark
    🦉 owl
    🦆 duck
    🦩 flamingo, pink flamingo
    🐍 snake, green snake
    🦖 dinosaur, green dinosaur
    🐿️ squirrel, chipmunk
    🦔 hedgehog
    🌸 cherry blossom, pink flower, flower
    🍀 four-leaf clover, clover
    🍁 maple leaf, autumn leaf
    🌲 pine tree, fir tree, christmas tree
    🪴 potted plant, house plant, plant
    🚙 blue car, blue suv
    🚕 taxi, yellow taxi, yellow car
    🚑 ambulance
    🚒 fire engine, fire truck
    🚓 police car
    🚚 truck, delivery truck, lorry
    🏍️ motorcycle, motorbike
    ✈️ airplane, plane, aeroplane
    🚁 helicopter
    🚂 locomotive, steam train, train
    🛸 flying saucer, ufo
    💙 blue heart
    💚 green heart
    💛 yellow heart
    📗 green book
    📘 blue book
    ✏️ pencil, yellow pencil
    ✂️ scissors, pair of scissors
    🔔 bell, golden bell
    🧸 teddy bear, teddy
    🪑 chair, wooden chair
    🛋️ sofa, couch
    📺 television, tv
    💻 laptop, computer
    📱 phone, mobile phone, smartphone
    🎧 headphones
    🎻 violin
    🥁 drum
    🎺 trumpet, golden trumpet
    🎲 die, dice
    🎨 palette, paint palette
    ⚾ baseball
    🎾 tennis ball
    🏈 american football
    👟 sneaker, running shoe, shoe
    👠 high-heeled shoe, red shoe
    🎒 backpack, school bag
    👓 glasses, eyeglasses
    🧢 blue cap, cap, baseball cap
    🔨 hammer
    🕯️ candle
    💰 money bag, bag of money
    ☁️ cloud, white cloud
    ⚡ lightning bolt, lightning
    ❄️ snowflake
    🌍 globe, earth, planet earth
    🗿 stone statue, statue
    ⛲ fountain
    🏰 castle
    """
    lines = [line.strip().partition(" ") for line in rows.strip().splitlines()]
    return tuple(Object(emoji, tuple(n.strip() for n in names.split(","))) for emoji, _, names in lines)


OBJECTS: tuple[Object, ...] = _catalogue()
