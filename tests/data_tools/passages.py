"""Texts for the tests of the steps: prose that must stay and spam that must go, English and Chinese."""

from data_tools.document import Document, Drop, Step

ENGLISH_PROSE = """\
The lighthouse at the end of the cape had been dark for eleven years when the council decided that it should \
be lit again. Nobody in the town could say who had made the proposal, but everybody had an opinion about the \
costs, and most of them were sure that the money would be better spent on the harbour.

On the first evening in March a young engineer walked out along the causeway with two heavy batteries and a \
box of tools. She had grown up within sight of the tower, and she remembered how its beam used to cross the \
ceiling of her room. It took her less than an hour to find what was wrong with the old machinery. A single \
wheel had rusted to its axle, and with it the whole clockwork had stopped.

By nine o'clock the lamp was burning. Along the shore people came out of their houses to look, and some of \
them stayed until morning. "I had forgotten how far it reaches," said the baker, who was not a man to be \
moved by such things. The fishermen said nothing, but that night they came home by a shorter way.
"""

CHINESE_PROSE = """\
海角尽头的灯塔已经熄灭了十一年，镇上的议会才决定把它重新点亮。没有人说得清这个提议是谁先提出来的，但是每个人对费用都有自己的看法，而且大多数人认为，这笔钱还不如用来修码头。

三月的第一个傍晚，一位年轻的工程师背着两块沉重的电池和一箱工具，沿着堤道走了过去。她从小就在看得见灯塔的地方长大，还记得那道光怎样从她房间的天花板上扫过。她不到一个小时就找到了旧机器的毛病：一个齿轮锈死在轴上，整套钟表装置也就跟着停了下来。

到了九点钟，灯亮了。岸边的人们从屋里走出来看，有些人一直待到天亮。“我都忘了它能照得这么远。”面包师说，他可不是一个容易被这种事情打动的人。渔民们什么也没有说，可是那天夜里，他们走了一条更近的路回家。
"""

CLASSICAL_PROSE = """\
先帝創業未半，而中道崩殂。今天下三分，益州疲弊，此誠危急存亡之秋也。然侍衛之臣，不懈於內；忠志之士，忘身於外者，蓋追先帝之殊遇，欲報之於陛下也。誠宜開張聖聽，以光先帝遺德，恢弘志士之氣；不宜妄自菲薄，引喻失義，以塞忠諫之路也。

宮中、府中，俱為一體，陟罰臧否，不宜異同。若有作姦犯科，及為忠善者，宜付有司，論其刑賞，以昭陛下平明之治；不宜偏私，使內外異法也。
"""


def run(step: Step, text: str, **metadata: object) -> Document | Drop:
    """What a step makes of a text."""
    return step(Document(text, "test", dict(metadata)))


def reason(step: Step, text: str, **metadata: object) -> str | None:
    """Why a step drops a text, or None."""
    found = run(step, text, **metadata)
    return found.reason if isinstance(found, Drop) else None
