"""Telephone numbers by their form, or by the word before them."""

import re

from data_tools.steps.pii_rules import Rule, Span, called, is_quantity, is_version, vocabulary

_HINT = re.compile(r"\d[\d ()./-]{5,20}\d", re.ASCII)
_PHONE = re.compile(
    r"(?:(?<![\w.+#-])(?:\+|00(?=[2-9]\d{1,2}[ .-]))(?P<international>[1-9]\d{0,2}[ .-]?"
    r"(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,5})"
    r"|(?<![\w.+/=#-])(?:"
    r"(?:1[ .-])?(?:\((?P<area>[2-9]\d{2})\) ?|(?P<area2>[2-9]\d{2})[.-])(?P<exchange>[2-9]\d{2})[.-]\d{4}"
    r"|(?:86[ -]?)?1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})"  # China, mobile.
    r"|(?:\(0\d{2,3}\) ?|0\d{2,3}[ -])[2-9]\d{6,7}"  # China, landline.
    r"|0\d{1,2}-\d{3,4}-\d{4}|0\d{3}-\d{2}-\d{4}|09\d{2}-\d{3}-\d{3}"  # Japan, Korea, Taiwan.
    r"|\(0\d{2,4}\) ?\d{3,4}[ -]\d{3,4}"  # United Kingdom and others.
    r"|[78][ -]?\(\d{3}\) ?\d{3}[ -]\d{2}[ -]\d{2}"  # Russia.
    r"|\(\d{2}\) ?9?\d{4}-\d{4}"  # Brazil.
    r"))(?!\d|[.-]\d)",
    re.ASCII,
)
_WORD = (
    r"(?:(?<![A-Za-z])(?:tel|telephone|phone|cellphone|mobile|mob|fax|whatsapp|hotline|t[ée]l[ée]phone|t[ée]l"
    r"|telefone?|telefax|tel[eé]fono|m[oó]vil|celular|handy|cell|call|sms|điện thoại)"
    r"|телефону?|тел|факс|моб|هاتف|جوال|موبايل|تلفن|טלפון|फ़ोन|फोन|मोबाइल|โทรศัพท์|โทร|電話|电话|手機|手机|传真|傳真|座机"
    r"|热线|熱線|携帯|ファックス|휴대폰|휴대전화|전화번호|전화|연락처|팩스)"
)
_MARK = (
    r"(?:\.? ?(?:no|nr|num|number|numbers|номер|号码|號碼|番号|번호)(?![a-z])\.?)?"
    r"[\"'*]{0,2}(?: ?[:：=.]){0,3}[\"'*]{0,2} {0,3}"
)
_AFTER_WORD = re.compile(
    rf"(?i:(?P<word>{_WORD})(?P<mark>{_MARK}))"
    r"(?P<number>(?:\+|\()?\d(?:[ ]?[()./-]?[ ]?\d){6,16})(?!\d|[.-]\d)",
    re.ASCII,
)
# Country codes of E.164 by their first digits; those of one and two digits are whole.
_COUNTRY = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2[1234569]\d|3[578]\d|42\d|50\d|59\d|6[789]\d|80[08]|85\d|87\d|88\d|96\d|97\d|99\d"
)
_DECIMAL = re.compile(r"\+\d+\.\d+(?:[-+]\d+\.\d+)?")
_NO_AREAS = frozenset(("200", "300", "400"))  # Never given; and none ends in 11.
_OTHER_NUMBERS = vocabulary(
    "isbn issn doi patent order orders invoice serial model part item sku account acct id ref reference "
    "imei upc ean lot № "
)
_OTHER_ENDS = (
    *(
        "订单",
        "訂單",
        "编号",
        "編號",
        "单号",
        "單號",
        "流水",
        "流水号",
        "序号",
        "序號",
        "账号",
        "帳號",
        "编码",
        "型号",
    ),
    *("订单号", "訂單號", "卡号", "号牌", "注文番号", "주문번호", "第"),
)
_DATES = re.compile(
    r"(?:19|20)\d\d[ ./-]{1,3}(?:19|20)\d\d|(?:19|20)\d\d([./-]?)[01]\d\1[0-3]\d(?:\D.*)?"
    r"|[0-3]?\d[./-][0-3]?\d[./-](?:19|20)\d\d(?:\D.*)?"
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:[ .]\d{3})+")
_GROUP = re.compile(r"[ .()/-]+")


def _by_form(match: re.Match[str]) -> Span | None:
    """Return the span of a number that a country gives, unless it counts or names something else."""
    end = match.end()
    if match["international"] is not None:
        end = _international_end(match)
    elif (area := match["area"] or match["area2"]) and not _is_american(area, match["exchange"]):
        return None
    if end < 0 or is_quantity(match, end) or called(match, _OTHER_NUMBERS, _OTHER_ENDS):
        return None
    return None if "." in match[0] and is_version(match, end) else (match.start(), end)


def _is_american(area: str, exchange: str) -> bool:
    return area not in _NO_AREAS and area[1:] != "11" and exchange[1:] != "11"


def _international_end(match: re.Match[str]) -> int:
    """Where a number after + ends, by the digits that its country gives; -1 where it is none.

    What follows after a space may be another number: "+44 20 7946 0958 2024".
    """
    start, text = match.start("international"), match["international"]
    if _DECIMAL.fullmatch(match[0]) or _DATES.fullmatch(text):
        return -1
    ends = [len(text), *sorted((gap.start() for gap in re.finditer(" ", text)), reverse=True)]
    for end in ends:
        digits = re.sub(r"\D", "", text[:end])
        if _is_national(digits):
            return start + end
    return -1


def _is_national(digits: str) -> bool:
    """Whether the digits after + are a country's code and as many as its numbers have."""
    code = _COUNTRY.match(digits)
    if code is None:
        return False
    rest = digits[code.end() :]
    match code[0]:
        case "1":
            return len(rest) == 10 and rest[0] in "23456789"
        case "7":
            return len(rest) == 10
        case "86":
            return len(rest) == 11 if rest[0] == "1" else 9 <= len(rest) <= 12
        case _:
            return len(rest) >= 6 and 8 <= len(digits) <= 15


def _after_word(match: re.Match[str]) -> Span | None:
    """Return the span of the number after a word such as "tel", unless it is a date, an amount or a count."""
    number, (start, end) = match["number"], match.span("number")
    digits = sum(map(str.isdecimal, number))
    if not 7 <= digits <= 15 or _DATES.fullmatch(number) or is_quantity(match, end):
        return None
    said = set(":：=") & set(match["mark"]) or len(match["mark"].strip()) > 1
    if not said and match["word"].isascii():
        groups = len(_GROUP.findall(number.strip("(+")))
        if (groups < 2 and digits < 10) or _THOUSANDS.fullmatch(number):
            return None  # "phone 1 200 000", "mobile 12345678"
    return start, end


PHONE = Rule("phone", _HINT, _PHONE, _by_form)
PHONE_AFTER_WORD = Rule("phone", _HINT, _AFTER_WORD, _after_word)
